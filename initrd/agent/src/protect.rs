//! Paths of `/proc` and `/sys` that an app may not change or see: rkt's lists (stage1/init/common), and
//! what systemd 233 added to them there (`ProtectKernelTunables`); `--insecure-options=paths` turns
//! them off. `/sys` as a whole is mounted read-only, which covers rkt's list of its folders.

use crate::beneath;
use crate::failure::{Kind, Outcome, While};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

const READ_ONLY: [&str; 9] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/bus",
    "/proc/irq",
    "/proc/fs",
    "/proc/acpi",
    "/proc/asound",
    "/proc/mtrr",
    "/proc/latency_stats",
];
/// The timers tell kernel addresses.
const MASKED: [&str; 13] = [
    "/sys/firmware",
    "/sys/fs",
    "/sys/hypervisor",
    "/sys/module",
    "/sys/power",
    "/proc/config.gz",
    "/proc/kallsyms",
    "/proc/sched_debug",
    "/proc/kcore",
    "/proc/kmem",
    "/proc/mem",
    "/proc/keys",
    "/proc/timer_list",
];

/// Covers the paths inside `root` that exist.
pub fn protect_paths(root: &OwnedFd) -> Outcome<()> {
    for path in READ_ONLY {
        cover(root, path, make_read_only)?;
    }
    for path in MASKED {
        cover(root, path, mask)?;
    }
    Ok(())
}

type Cover = fn(&OwnedFd, &OwnedFd, &str) -> Result<(), Errno>;

fn cover(root: &OwnedFd, path: &str, how: Cover) -> Outcome<()> {
    match beneath::open(root, path) {
        Err(Errno::NOENT) => Ok(()),
        result => result
            .and_then(|place| how(root, &place, path))
            .trying(Kind::MountFailed, format_args!("protect {path}")),
    }
}

/// Mounts what `from` names on the place, read-only and without devices.
fn bind_read_only(root: &OwnedFd, from: &str, place: &OwnedFd, path: &str) -> Result<(), Errno> {
    mount_bind(from, beneath::proc_path(place))?;
    // The descriptor names what lies below the new mount; only the path leads to the mount itself.
    let covered = beneath::open(root, path)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(beneath::proc_path(&covered), MountFlags::BIND | MountFlags::RDONLY | safe, c"")
}

fn make_read_only(root: &OwnedFd, place: &OwnedFd, path: &str) -> Result<(), Errno> {
    bind_read_only(root, &beneath::proc_path(place), place, path)
}

/// A folder is empty, a file cannot be opened.
fn mask(root: &OwnedFd, place: &OwnedFd, path: &str) -> Result<(), Errno> {
    if beneath::is_directory(place)? {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        let target = beneath::proc_path(place);
        return mount("tmpfs", target, "tmpfs", flags, c"size=0,mode=0555");
    }
    bind_read_only(root, "/dev/null", place, path)
}
