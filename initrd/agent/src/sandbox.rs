//! The sleeping process that is PID 1 of an app's PID namespace and holds its mount namespace from
//! `app.add` to `app.remove`. What runs in the app is started by the agent itself *into* these
//! namespaces, so the agent is the parent of every main process and sees its exact end; an ordinary
//! process of the namespace dies of SIGTERM as it should, which a namespace's PID 1 would not.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::files;
use crate::protocol::spec::AppSpec;
use crate::report::{self, Report};
use crate::rootfs::{self, PodFiles};
use crate::sys::{self, Child, Forked};
use alloc::format;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

/// The namespaces of one app.
#[derive(Debug)]
pub struct Sandbox {
    keeper: Child,
}

impl Sandbox {
    /// Makes the namespaces and assembles the app's root in them.
    pub fn create(app: &AppSpec, pod: &PodFiles) -> Outcome<Sandbox> {
        let (reports, reporter) = report::pipe()?;
        let forked = sys::fork(sys::NEW_MOUNT_AND_PID, None)
            .trying(Kind::Internal, format_args!("make the namespaces of app {}", app.name))?;
        match forked {
            Forked::Child => {
                match rootfs::enter_root(app, pod) {
                    Ok(()) => reporter.ready(),
                    Err(failure) => {
                        reporter.failed(&failure);
                        sys::exit(1);
                    }
                }
                keep()
            }
            Forked::Parent(keeper) => {
                drop(reporter);
                let sandbox = Sandbox { keeper };
                let failure = match reports.wait() {
                    Ok(Report::Ready) => return Ok(sandbox),
                    Ok(Report::Failed(failure)) | Err(failure) => failure,
                    Ok(Report::Silence) => {
                        let message = format!("preparing app {} ended unexpectedly", app.name);
                        Failure::new(Kind::Internal, message)
                    }
                };
                sandbox.end();
                Err(failure)
            }
        }
    }

    /// Ends the namespaces and every process in them. Those that the agent started must have been
    /// collected before: the kernel lets a namespace's PID 1 end only after all others.
    pub fn end(self) {
        // It may have ended by itself, with the same effect.
        let _ = pidfd_send_signal(&self.keeper.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.keeper.pidfd.as_fd()), WaitIdOptions::EXITED);
    }

    /// Makes a process in the app's PID namespace and in `cgroup`; its mount namespace is still the
    /// agent's, see [`Sandbox::enter_mounts`].
    pub fn fork(&self, cgroup: impl AsFd) -> io::Result<Forked> {
        let own = open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let pidfd = self.keeper.pidfd.as_fd();
        move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::PROCESS_ID)?;
        let forked = sys::fork(0, Some(cgroup.as_fd()));
        if matches!(forked, Ok(Forked::Child)) {
            return forked;
        }
        // It concerns only children: the agent itself never left its own namespace.
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        forked
    }

    /// In a child: moves into the app's mount namespace, whose root becomes `/`.
    pub fn enter_mounts(&self) -> io::Result<()> {
        move_into_thread_name_spaces(self.keeper.pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
    }

    /// Opens a path of the app from outside, resolved in its root.
    pub fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let root = format!("/proc/{}/root", self.keeper.pid.as_raw_nonzero());
        let root = open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }
}

/// Sleeps for ever, holding nothing of the agent's. Orphans of the app become its children and are
/// collected by the kernel since it ignores their end.
fn keep() -> ! {
    // A nicer name in the app's process list; nothing depends on it.
    let _ = rustix::thread::set_name(c"pod-init");
    // Were it chosen when memory is short, the whole app would go, and its own processes are larger.
    let _ = files::write("/proc/self/oom_score_adj", b"-1000");
    sys::ignore_children();
    sys::close_from(0, false);
    loop {
        sys::pause();
    }
}
