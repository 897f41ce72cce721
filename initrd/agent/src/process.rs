//! Starting a program inside an app: the main process, or a handler.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::privileges::Privileges;
use crate::protocol::spec::AppSpec;
use crate::report::{self, Report};
use crate::sandbox::Sandbox;
use crate::sys::{self, Child, Forked, SharedWord};
use crate::{cgroup, diagnosis, environment, files, users};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::null;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, Uid, accessat, fchown, fstat, stat};
use rustix::io::{self, Errno};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, chdir, ioctl_tiocsctty, pidfd_send_signal, setsid, umask, waitid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// What to run, and where.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The app whose user, environment and privileges it gets.
    pub app: &'a AppSpec,
    /// Program and arguments.
    pub argv: &'a [String],
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// A terminal to become the controlling one of.
    pub terminal: Option<BorrowedFd<'a>>,
    /// The app's namespaces.
    pub sandbox: &'a Sandbox,
    /// The app's cgroup.
    pub cgroup: &'a cgroup::Cgroup,
}

/// What a new process is to do once it is all that a program of the app is.
#[derive(Clone, Copy, Debug)]
enum Purpose<'a> {
    /// Execute the program; why that failed goes into the word, since its filter may forbid it to
    /// say anything.
    Execute(&'a SharedWord),
    /// Look, without a filter, why executing failed for this reason.
    Explain(Errno),
}

/// Starts it; returns when the program is executing.
pub fn launch(launch: &Launch<'_>) -> Outcome<Child> {
    let word = SharedWord::new().trying(Kind::Internal, "map memory for a child's word")?;
    let child = start(launch, Purpose::Execute(&word))?;
    if word.get() == 0 {
        return Ok(child);
    }
    await_end(&child);
    let explaining = start(launch, Purpose::Explain(Errno::from_raw_os_error(word.get())))?;
    await_end(&explaining);
    let message = format!("app {}: its program could not be executed", launch.app.name);
    Err(Failure::new(Kind::ExecFailed, message))
}

/// It has said its word and ends at once.
fn await_end(child: &Child) {
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// Makes a process of the app; returns when it has executed its program, or tried to.
fn start(launch: &Launch<'_>, purpose: Purpose<'_>) -> Outcome<Child> {
    let (reports, reporter) = report::pipe()?;
    let forked = launch
        .sandbox
        .fork(launch.cgroup.directory())
        .trying(Kind::Internal, format_args!("make a process for app {}", launch.app.name))?;
    match forked {
        Forked::Child => {
            let Err(failure) = become_program(launch, purpose);
            reporter.failed(&failure);
            sys::exit(126)
        }
        Forked::Parent(child) => {
            drop(reporter);
            let nudge = || {
                // It may have ended meanwhile, which the pipe tells.
                let _ = pidfd_send_signal(&child.pidfd, Signal::CONT);
            };
            match reports.wait_nudging(nudge) {
                Ok(Report::Silence | Report::Ready) => Ok(child),
                Ok(Report::Failed(failure)) | Err(failure) => {
                    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
                    await_end(&child);
                    Err(failure)
                }
            }
        }
    }
}

enum Never {}

fn become_program(launch: &Launch<'_>, purpose: Purpose<'_>) -> Result<Never, Failure> {
    let app = launch.app;
    if let Some(adjustment) = app.oom_score_adj {
        files::write("/proc/self/oom_score_adj", format!("{adjustment}").as_bytes())
            .trying(Kind::Internal, format_args!("set oom_score_adj to {adjustment}"))?;
    }
    launch.sandbox.enter_mounts().trying(Kind::Internal, "enter the app's root")?;
    let identity = users::resolve(&app.user, &app.group)?;
    if let Purpose::Execute(_) = purpose {
        set_up_stdio(launch, identity.uid).trying(Kind::Internal, "set up the standard streams")?;
    }
    umask(Mode::from_raw_mode(0o022));
    chdir(app.working_directory.as_str()).trying(
        Kind::NoSuchDirectory,
        format_args!("enter the working directory {:?}", app.working_directory),
    )?;
    let privileges = Privileges::of(app, &identity)?;
    privileges.keep_only()?;
    let terminal = app.terminal.as_ref().and_then(|terminal| terminal.name.as_deref());
    let environment = environment::complete(&app.environment, identity.account.as_ref(), terminal);
    let program = Program::prepare(launch.argv, &environment)?;
    match purpose {
        Purpose::Explain(reason) => Err(diagnosis::explain(&program.path, reason)),
        Purpose::Execute(word) => {
            privileges.filter_calls()?;
            word.set(program.execute().raw_os_error());
            sys::exit(126)
        }
    }
}

/// Gives the process its own session and its streams. All other descriptors close on exec.
fn set_up_stdio(launch: &Launch<'_>, uid: u32) -> io::Result<()> {
    setsid()?;
    if let Some(terminal) = launch.terminal {
        // So that the app may open its terminal by name.
        fchown(terminal, Some(Uid::from_raw(uid)), None)?;
        ioctl_tiocsctty(terminal)?;
    }
    for stream in launch.stdio {
        // So that the app may open /dev/stdout and its like by name; devices are everyone's.
        if FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Fifo {
            fchown(stream, Some(Uid::from_raw(uid)), None)?;
        }
    }
    let [input, output, error] = launch.stdio;
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(error)?;
    sys::close_from(3, true);
    Ok(())
}

/// The places a program may be at: a path as it is, a bare name in each directory of PATH.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return alloc::vec![String::from(program)];
    }
    path.split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| format!("{directory}/{program}"))
        .collect()
}

/// A program that is ready to be executed: nothing but the call itself is left to do.
#[derive(Debug)]
struct Program {
    path: String,
    file: CString,
    arguments: Vec<CString>,
    variables: Vec<CString>,
}

impl Program {
    fn prepare(argv: &[String], environment: &[String]) -> Outcome<Program> {
        let program = argv.first().map_or("", String::as_str);
        let path = environment::value_of(environment, "PATH").unwrap_or_default();
        let path = find(program, path)?;
        let prepared = (|| {
            let file = CString::new(path.as_str()).ok()?;
            let (arguments, variables) = (c_strings(argv)?, c_strings(environment)?);
            Some(Program { path, file, arguments, variables })
        })();
        prepared.ok_or_else(|| {
            let message = format!("{program:?}: an argument has a zero byte");
            Failure::new(Kind::InvalidSpec, message)
        })
    }

    /// Returns only on failure.
    fn execute(&self) -> Errno {
        sys::execve(&self.file, &pointers(&self.arguments), &pointers(&self.variables))
    }
}

/// The first place where this user may execute the program.
fn find(program: &str, path: &str) -> Outcome<String> {
    let mut failure = None;
    for candidate in candidates(program, path) {
        // A file that exists but cannot be run says more than the places where there is none.
        match stat(candidate.as_str()).map(|status| FileType::from_raw_mode(status.st_mode)) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Ok(FileType::Directory) => {
                failure.get_or_insert_with(|| diagnosis::explain(&candidate, Errno::ACCESS));
            }
            Err(reason) => {
                failure.get_or_insert_with(|| diagnosis::explain(&candidate, reason));
            }
            Ok(_) => match accessat(CWD, candidate.as_str(), Access::EXEC_OK, AtFlags::EACCESS) {
                Ok(()) => return Ok(candidate),
                Err(reason) => {
                    failure.get_or_insert_with(|| diagnosis::explain(&candidate, reason));
                }
            },
        }
    }
    Err(failure.unwrap_or_else(|| {
        let place = if program.contains('/') {
            String::from("in the image")
        } else {
            format!("in PATH={path}")
        };
        let message = format!("there is no executable {program:?} {place}");
        Failure::new(Kind::NoSuchExecutable, message)
    }))
}

fn c_strings(texts: &[String]) -> Option<Vec<CString>> {
    texts.iter().map(|text| CString::new(text.as_str()).ok()).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const u8> {
    strings.iter().map(|string| string.as_ptr().cast()).chain([null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_as_a_shell_does() {
        assert_eq!(candidates("/bin/sh", "/x"), ["/bin/sh"]);
        assert_eq!(candidates("./sh", "/x"), ["./sh"]);
        assert_eq!(candidates("sh", "/a::/b"), ["/a/sh", "./sh", "/b/sh"]);
    }

    #[test]
    fn a_missing_program_is_named_with_where_it_was_looked_for() {
        let argv = [String::from("no-such-program")];
        let failure = Program::prepare(&argv, &[String::from("PATH=/none")]).unwrap_err();
        assert_eq!(failure.kind, Kind::NoSuchExecutable);
        let expected = "there is no executable \"no-such-program\" in PATH=/none";
        assert_eq!(failure.message, expected);
    }
}
