//! How a child tells the agent what went wrong before it became something else: through a pipe that
//! closes by itself when execve succeeds.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::files;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// Longest report: a pipe takes this much at once.
const REPORT_BYTES_MAX: usize = 4096;
const READY: u8 = 0;

/// The child's end.
#[derive(Debug)]
pub struct Reporter(OwnedFd);

/// The agent's end.
#[derive(Debug)]
pub struct Reports(OwnedFd);

/// What the child said.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing: it became its program, or died on the way, which its status tells.
    Silence,
    /// It is ready.
    Ready,
    /// It failed.
    Failed(Failure),
}

/// A pipe for one child.
pub fn pipe() -> Outcome<(Reports, Reporter)> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).trying(Kind::Internal, "make a pipe for a child's report")?;
    Ok((Reports(reader), Reporter(writer)))
}

impl Reporter {
    /// Says that the child is ready.
    pub fn ready(&self) {
        // If the agent is gone so is the machine.
        let _ = rustix::io::write(&self.0, &[READY]);
    }

    /// Says what failed.
    pub fn failed(&self, failure: &Failure) {
        let mut bytes = Vec::with_capacity(failure.message.len() + 1);
        bytes.push(failure.kind as u8);
        bytes.extend_from_slice(failure.message.as_bytes());
        bytes.truncate(REPORT_BYTES_MAX);
        // As above.
        let _ = rustix::io::write(&self.0, &bytes);
    }
}

/// How long one may be silent, and how often it is nudged meanwhile.
const NUDGE_SECONDS: i64 = 1;
const NUDGES_MAX: u32 = 30;

impl Reports {
    /// Waits for the word of a child that others may keep from speaking: in an app's PID namespace its
    /// processes can stop it. `nudge` is to make it go on; in the end it counts as failed.
    pub fn wait_nudging(self, nudge: impl Fn()) -> Outcome<Report> {
        self.wait_at_most(NUDGES_MAX, Timespec { tv_sec: NUDGE_SECONDS, tv_nsec: 0 }, nudge)
    }

    fn wait_at_most(self, nudges: u32, interval: Timespec, nudge: impl Fn()) -> Outcome<Report> {
        for _ in 0..nudges {
            let mut ends = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut ends, Some(&interval)) {
                Ok(0) => nudge(),
                Ok(_) => return self.wait(),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno).trying(Kind::Internal, "wait for a child's report");
                }
            }
        }
        let message = "it was kept from executing its program (stopped by the app?)";
        Err(Failure::new(Kind::ExecFailed, message))
    }

    /// Waits for the child's word.
    pub fn wait(self) -> Outcome<Report> {
        let bytes = files::read_all(&self.0, REPORT_BYTES_MAX)
            .trying(Kind::Internal, "read a child's report")?;
        Ok(match bytes.split_first() {
            None => Report::Silence,
            Some((&READY, _)) => Report::Ready,
            Some((kind, message)) => {
                let message = String::from_utf8_lossy(message).into_owned();
                Report::Failed(Failure { kind: Kind::from_byte(*kind), message })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_stays_silent_is_nudged_and_given_up() {
        let (reports, reporter) = pipe().unwrap();
        let nudged = core::cell::Cell::new(0);
        let interval = Timespec { tv_sec: 0, tv_nsec: 1 };
        let waited = reports.wait_at_most(3, interval, || nudged.set(nudged.get() + 1));
        assert_eq!((waited.unwrap_err().kind, nudged.get()), (Kind::ExecFailed, 3));
        drop(reporter);
        let (reports, reporter) = pipe().unwrap();
        drop(reporter);
        assert_eq!(reports.wait_nudging(|| panic!()).unwrap(), Report::Silence);
    }

    #[test]
    fn reports_arrive() {
        let (reports, reporter) = pipe().unwrap();
        let failure = Failure::new(Kind::NoSuchUser, "no user \"x\"");
        reporter.failed(&failure);
        drop(reporter);
        assert_eq!(reports.wait().unwrap(), Report::Failed(failure));
        let (reports, reporter) = pipe().unwrap();
        reporter.ready();
        drop(reporter);
        assert_eq!(reports.wait().unwrap(), Report::Ready);
        let (reports, reporter) = pipe().unwrap();
        drop(reporter);
        assert_eq!(reports.wait().unwrap(), Report::Silence);
    }
}
