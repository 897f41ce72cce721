//! `/dev` of an app: a tmpfs with the nodes the App Container OS specification asks for.
//!
//! Root in an app may make device nodes (`CAP_MKNOD` is among rkt's default capabilities), those of
//! the pod's disks and of the agent's ports too. So nothing an app can write to lets nodes be opened,
//! its `/dev` included: the nodes it may use lie on a filesystem of their own that it cannot reach,
//! and are bound one by one.

use crate::beneath;
use crate::layout;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, makedev, mkdirat, mknodat, symlinkat, unlinkat};
use rustix::io;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

/// Name, major and minor number of the character devices.
const NODES: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("net/tun", 10, 200),
];
const LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];
const NODES_PLACE: &str = "/dev/.nodes";

/// Mounts and fills `/dev` at the place given. `has_terminal`: the app's own pseudo-terminal will be
/// the first of its devpts, and `/dev/console` names it; otherwise it is the app's log.
pub fn mount_dev(place: &OwnedFd, root: &OwnedFd, has_terminal: bool) -> io::Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    let flags = safe | MountFlags::NODEV;
    mount("tmpfs", beneath::proc_path(place), "tmpfs", flags, c"mode=0755,size=64k")?;
    let dev = beneath::open(root, "/dev")?;
    for name in ["net", "pts", "shm"] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
    }
    bind_nodes(&dev, root)?;
    let console = if has_terminal { "pts/0" } else { "/proc/self/fd/1" };
    for (target, name) in LINKS.into_iter().chain([(console, "console")]) {
        symlinkat(target, &dev, name)?;
    }
    let pts = beneath::open(root, "/dev/pts")?;
    let options = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", beneath::proc_path(&pts), "devpts", safe, options)?;
    let shm = beneath::open(root, "/dev/shm")?;
    mount_bind(layout::SHARED_MEMORY, beneath::proc_path(&shm))
}

/// The app's own nodes: changing the mode of one is no other app's concern.
fn bind_nodes(dev: &OwnedFd, root: &OwnedFd) -> io::Result<()> {
    mkdirat(dev, ".nodes", Mode::from_raw_mode(0o700))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let place = beneath::open(root, NODES_PLACE)?;
    mount("tmpfs", beneath::proc_path(&place), "tmpfs", flags, c"mode=0755,size=64k")?;
    let nodes = beneath::open(root, NODES_PLACE)?;
    mkdirat(&nodes, "net", Mode::from_raw_mode(0o755))?;
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in NODES {
        mknodat(&nodes, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
        mknodat(dev, name, FileType::RegularFile, Mode::empty(), 0)?;
        let (from, to) = (beneath::open(&nodes, name)?, beneath::open(dev, name)?);
        mount_bind(beneath::proc_path(&from), beneath::proc_path(&to))?;
    }
    unmount(beneath::proc_path(&nodes), UnmountFlags::DETACH)?;
    unlinkat(dev, ".nodes", AtFlags::REMOVEDIR)
}
