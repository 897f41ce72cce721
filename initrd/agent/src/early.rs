//! The filesystems the agent itself needs, and the limits everything it starts inherits.

use crate::failure::{Kind, Outcome, While};
use crate::{files, layout};
use rustix::fs::{Mode, mkdir};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, chroot, set_dumpable_behavior, setrlimit, umask,
};

/// The initrd's directory on which the agent's root is assembled.
const BASE: &core::ffi::CStr = c"/base";

/// Mounts a tmpfs with proc, sys, dev and cgroups over the initramfs. An initramfs cannot be pivoted
/// away from, a filesystem mounted over it can: the apps' roots depend on that.
pub fn mount_filesystems() -> Outcome<()> {
    // Modes are meant as written; programs of apps get the usual mask when they are started.
    umask(Mode::empty());
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let failed = Kind::Internal;
    // A host that made its initrd without the directory still boots.
    let _ = mkdir(BASE, Mode::from_raw_mode(0o755));
    mount("tmpfs", BASE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .trying(failed, "mount the agent's root")?;
    chdir(BASE).trying(failed, "enter the agent's root")?;
    let directories = ["proc", "sys", "dev", "disks", "scratch", "share", "etc", "shm", "root"];
    for directory in directories {
        mkdir(directory, Mode::from_raw_mode(0o755)).trying(failed, directory)?;
    }
    mount("proc", "proc", "proc", safe, None).trying(failed, "mount /proc")?;
    mount("sysfs", "sys", "sysfs", safe, None).trying(failed, "mount /sys")?;
    mount("devtmpfs", "dev", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, None)
        .trying(failed, "mount /dev")?;
    mount("cgroup2", "sys/fs/cgroup", "cgroup2", safe, None).trying(failed, "mount cgroup2")?;
    mount("tmpfs", "shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")
        .trying(failed, "mount the pod's shared memory")?;
    mount_move(".", "/").trying(failed, "move the agent's root")?;
    chroot(".").trying(failed, "enter the agent's root")?;
    chdir("/").trying(failed, "enter the agent's root")?;
    let control = alloc::format!("{}/cgroup.subtree_control", layout::CGROUPS);
    // All at once, since each change walks the whole tree. A kernel without one of them refuses all;
    // then only the limits that need the missing one fail.
    if files::write(&control, b"+memory +cpu +pids").is_err() {
        for controller in [b"+memory".as_slice(), b"+cpu", b"+pids"] {
            let _ = files::write(&control, controller);
        }
    }
    Ok(())
}

/// An app may hold a lease on its own files; who opens one then waits until it is given back, for 45
/// seconds if the app likes. The agent's children open files of apps.
pub fn shorten_leases() {
    // Without leases in the kernel there is nothing to wait for.
    let _ = files::write("/proc/sys/fs/lease-break-time", b"1");
}

/// Keeps apps from looking into the agent's children before these have given up its privileges: what
/// the kernel would write a dump of, a process of the same user may trace. Executing a program ends it.
pub fn hide_memory() {
    // A kernel that refuses it still asks the looker for the capabilities of the looked at.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// PID 1's limit on open files is 1024/4096; servers raise theirs and expect what a distribution
/// allows: systemd's hard limit.
pub fn raise_limits() {
    let limit = Rlimit { current: Some(1024), maximum: Some(524_288) };
    // Without it an app sees the kernel's lower default, which is no reason not to boot.
    let _ = setrlimit(Resource::Nofile, limit);
}
