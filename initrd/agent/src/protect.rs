//! Paths of `/proc` and `/sys` that an app may not change or see: rkt's lists
//! (stage1/init/common, `--insecure-options=paths` turns them off).

use crate::beneath;
use crate::failure::{Kind, Outcome, While};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

const READ_ONLY: [&str; 12] = [
    "/proc/bus",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sysrq-trigger",
    "/sys/block",
    "/sys/bus",
    "/sys/class",
    "/sys/dev",
    "/sys/devices",
    "/sys/kernel",
    "/proc/irq",
];
const MASKED: [&str; 12] = [
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

fn make_read_only(root: &OwnedFd, place: &OwnedFd, path: &str) -> Result<(), Errno> {
    let place = beneath::proc_path(place);
    mount_bind(&place, &place)?;
    // The descriptor names what lies below the new mount; only the path leads to the mount itself.
    let covered = beneath::open(root, path)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(beneath::proc_path(&covered), MountFlags::BIND | MountFlags::RDONLY | safe, c"")
}

fn mask(_root: &OwnedFd, place: &OwnedFd, _path: &str) -> Result<(), Errno> {
    let target = beneath::proc_path(place);
    if beneath::is_directory(place)? {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        return mount("tmpfs", target, "tmpfs", flags, c"size=0,mode=0555");
    }
    mount_bind("/dev/null", target)
}
