//! The pseudo-terminal of an app in tty mode.

use crate::failure::{Kind, Outcome, While};
use crate::sandbox::Sandbox;
use alloc::rc::Rc;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io;
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

/// Opens a pair in the app's own devpts, so that its names are right inside.
pub fn open_pair(sandbox: &Sandbox) -> Outcome<(Rc<OwnedFd>, OwnedFd)> {
    let attempt = || -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let master = sandbox.open("/dev/pts/ptmx", flags)?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        Ok((master, slave))
    };
    let (master, slave) = attempt().trying(Kind::Internal, "open a pseudo-terminal")?;
    Ok((Rc::new(master), slave))
}

/// Sets the size; the kernel tells the foreground processes with SIGWINCH.
pub fn resize(master: impl AsFd, rows: u16, columns: u16) -> Outcome<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).trying(Kind::Internal, "set the terminal's size")
}

/// The process group that reads from the terminal.
pub fn foreground_group(master: impl AsFd) -> Option<Pid> {
    tcgetpgrp(master).ok()
}
