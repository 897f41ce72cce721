//! Finding and opening virtio-serial ports by name.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::files;
use alloc::format;
use alloc::string::String;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::nanosleep;
use rustix::time::Timespec;

/// JSON-RPC with the host.
pub const CONTROL: &str = "kvmrkt.control";
/// Log records for the host.
pub const LOG: &str = "kvmrkt.log";
/// The archive of an export.
pub const EXPORT: &str = "kvmrkt.export";

const CLASS: &str = "/sys/class/virtio-ports";
/// The driver announces ports from a work queue, so they appear some milliseconds after boot.
const FIRST_PAUSE_NS: i64 = 500_000;
const LAST_PAUSE_NS: i64 = 20_000_000;
/// How long something that the host promised may take to appear.
pub const WAIT_NS: i64 = 5_000_000_000;

fn find(name: &str) -> Option<String> {
    files::names_in(CLASS).ok()?.into_iter().find(|device| {
        files::read(format!("{CLASS}/{device}/name"), 256)
            .is_ok_and(|content| content.trim_ascii_end() == name.as_bytes())
    })
}

/// Sleeps with growing pauses until `probe` finds something or five seconds are over.
pub fn wait_for<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let (mut pause_ns, mut waited_ns) = (FIRST_PAUSE_NS, 0);
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if waited_ns > WAIT_NS {
            return None;
        }
        let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: pause_ns });
        waited_ns += pause_ns;
        pause_ns = (pause_ns * 2).min(LAST_PAUSE_NS);
    }
}

/// Opens the port of that name, non-blocking, waiting for it to appear.
pub fn wait_and_open(name: &str) -> Outcome<OwnedFd> {
    let device = wait_for(|| find(name)).ok_or_else(|| {
        Failure::new(Kind::Internal, format!("the host gave no virtio-serial port {name}"))
    })?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(format!("/dev/{device}"), flags, Mode::empty())
        .trying(Kind::Internal, format_args!("open the port {name}"))
}

/// Whether nobody is at the host's end.
pub fn is_disconnected(port: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&port, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Waits until the host has taken everything written, its end is gone, or two seconds are over.
pub fn drain(port: impl AsFd) {
    let mut fds = [PollFd::new(&port, PollFlags::OUT)];
    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
    // Reset follows whatever the outcome.
    let _ = poll(&mut fds, Some(&patience));
}
