//! `/dev` of an app: a tmpfs with the nodes the App Container OS specification asks for.

use crate::beneath;
use crate::layout;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, makedev, mkdirat, mknodat, symlinkat};
use rustix::io;
use rustix::mount::{MountFlags, mount, mount_bind};

/// Name, major and minor number of the character devices.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Mounts and fills `/dev` at the place given. `has_terminal`: the app's own pseudo-terminal will be
/// the first of its devpts, and `/dev/console` names it.
pub fn mount_dev(place: &OwnedFd, root: &OwnedFd, has_terminal: bool) -> io::Result<()> {
    let (noexec, nosuid) = (MountFlags::NOEXEC, MountFlags::NOSUID);
    mount("tmpfs", beneath::proc_path(place), "tmpfs", nosuid | noexec, c"mode=0755,size=64k")?;
    let dev = beneath::open(root, "/dev")?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    if has_terminal {
        symlinkat("pts/0", &dev, "console")?;
    }
    for name in ["pts", "shm"] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
    }
    let pts = beneath::open(root, "/dev/pts")?;
    let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", beneath::proc_path(&pts), "devpts", nosuid | noexec, options)?;
    let shm = beneath::open(root, "/dev/shm")?;
    mount_bind(layout::SHARED_MEMORY, beneath::proc_path(&shm))
}
