//! The end of the guest: no process left, nothing unwritten, then reset.

use crate::layout;
use rustix::fs::sync;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot};

/// Kills and collects every process but the agent itself.
pub fn kill_everything() {
    // For PID 1, process -1 is all the others.
    if let Some(everybody) = Pid::from_raw(-1) {
        let _ = kill_process(everybody, Signal::KILL);
    }
    while wait(WaitOptions::empty()).is_ok() {}
}

/// Writes everything out and unmounts what is not the agent's own.
pub fn unmount_everything() {
    sync();
    for place in [layout::SHARE, layout::SCRATCH] {
        // Not mounted in every pod; a namespace that is still being taken down may hold it, and then
        // the sync above is what counts.
        let _ = unmount(place, UnmountFlags::DETACH);
    }
    sync();
}

/// Resets the machine, which ends QEMU (`-no-reboot`).
pub fn reset() -> ! {
    let _ = reboot(RebootCommand::Restart);
    // Only a guest whose kernel refuses gets here; the kernel panics when PID 1 ends.
    crate::sys::exit(0)
}
