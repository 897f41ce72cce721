//! An app's root filesystem: its image below, scratch above, and what the pod puts into it. Runs in
//! the app's own mount namespace.

use crate::beneath::{self, Leaf};
use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::{AppSpec, Volume};
use crate::{devices, disks, files, layout, protect, volumes};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::fs::{
    FileType, Gid, Mode, OFlags, Uid, chmod, chown, lstat, open, rmdir, symlinkat, unlink,
};
use rustix::io::{self, Errno};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

/// What of the pod an app's root depends on.
#[derive(Debug, Default)]
pub struct PodFiles {
    /// The pod's volumes.
    pub volumes: Vec<Volume>,
    /// `/etc/hosts` was given.
    pub has_hosts: bool,
    /// `/etc/resolv.conf` was given.
    pub has_resolv_conf: bool,
}

/// More than the host sends in one message.
const ETC_BYTES_MAX: usize = 4 << 20;

/// Directories of an app on the scratch disk.
pub fn scratch_of(app: &str) -> String {
    format!("{}/apps/{app}", layout::SCRATCH)
}

/// Assembles the root and makes it `/`.
pub fn enter_root(app: &AppSpec, pod: &PodFiles) -> Outcome<()> {
    let failed = Kind::MountFailed;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .trying(failed, "make the mounts private")?;
    mount_overlay(app)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(layout::ROOT, flags, Mode::empty()).trying(failed, "open the app's root")?;
    mount_kernel_filesystems(&root, app)?;
    for (path, mode) in [("/tmp", 0o1777), ("/run", 0o755)] {
        beneath::make(&root, path, Leaf::Directory, mode)
            .trying(failed, format_args!("make {path}"))?;
    }
    for wanted in &app.mounts {
        volumes::mount_in(&root, wanted, &pod.volumes)?;
    }
    mount_etc(&root, app, pod)?;
    if app.protect_paths {
        protect::protect_paths(&root)?;
    }
    if app.read_only_root {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
        mount_remount(layout::ROOT, flags, c"").trying(failed, "make the root read-only")?;
    }
    // The old root is stacked over the new one and taken off: no directory for it is needed.
    chdir(layout::ROOT)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| chdir("/"))
        .trying(failed, "enter the app's root")
}

fn mount_overlay(app: &AppSpec) -> Outcome<()> {
    let lower = format!("{}/{}", disks::mount_point(&app.disk), app.root);
    let base = scratch_of(&app.name);
    let (upper, work) = (format!("{base}/upper"), format!("{base}/work"));
    let attempt = || -> io::Result<()> {
        files::make_directory(&format!("{}/apps", layout::SCRATCH), 0o700)?;
        for directory in [&base, &upper, &work] {
            files::make_directory(directory, 0o755)?;
        }
        // The root directory of an overlay is the upper one: it must look like the image's.
        let original = lstat(&lower)?;
        if FileType::from_raw_mode(original.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let owner = (Uid::from_raw(original.st_uid), Gid::from_raw(original.st_gid));
        chown(&upper, Some(owner.0), Some(owner.1))?;
        chmod(&upper, Mode::from_raw_mode(original.st_mode & 0o7777))?;
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        mount("overlay", layout::ROOT, "overlay", MountFlags::NODEV, options.as_c_str())
    };
    attempt().trying(
        Kind::MountFailed,
        format_args!("assemble the root of app {} from disk {}", app.name, app.disk),
    )
}

fn mount_kernel_filesystems(root: &OwnedFd, app: &AppSpec) -> Outcome<()> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let on = |path: &str| beneath::make(root, path, Leaf::Directory, 0o755);
    let mounted = |filesystem: &str, path: &str, flags: MountFlags| {
        let place = on(path)?;
        mount(filesystem, beneath::proc_path(&place), filesystem, flags, None)
    };
    mounted("proc", "/proc", safe).trying(Kind::MountFailed, "mount the app's /proc")?;
    let sys_flags = if app.protect_paths { safe | MountFlags::RDONLY } else { safe };
    mounted("sysfs", "/sys", sys_flags).trying(Kind::MountFailed, "mount the app's /sys")?;
    on("/dev")
        .and_then(|place| devices::mount_dev(&place, root, app.terminal.is_some()))
        .trying(Kind::MountFailed, "make the app's /dev")
}

/// Each app has copies of its own: what one of them writes there is no other's concern.
fn mount_etc(root: &OwnedFd, app: &AppSpec, pod: &PodFiles) -> Outcome<()> {
    let copies = format!("{}/etc", scratch_of(&app.name));
    files::make_directory(&copies, 0o755).trying(Kind::MountFailed, "make the app's /etc")?;
    let is_missing = |path: &str| matches!(beneath::open(root, path), Err(Errno::NOENT));
    let covers = [
        ("hostname", true),
        ("machine-id", true),
        ("hosts", pod.has_hosts || is_missing("/etc/hosts")),
        ("resolv.conf", pod.has_resolv_conf),
    ];
    for (name, wanted) in covers {
        if !wanted {
            continue;
        }
        let path = format!("/etc/{name}");
        let copy = format!("{copies}/{name}");
        files::read(format!("{}/{name}", layout::ETC), ETC_BYTES_MAX)
            .and_then(|content| files::create(&copy, &content))
            .and_then(|()| chmod(&copy, Mode::from_raw_mode(0o644)))
            .and_then(|()| beneath::make(root, &path, Leaf::File, 0o644))
            .and_then(|place| mount_bind(&copy, beneath::proc_path(&place)))
            .trying(Kind::MountFailed, format_args!("mount the pod's {path}"))?;
    }
    if is_missing("/etc/mtab") {
        let link = beneath::open(root, "/etc")
            .and_then(|etc| symlinkat("../proc/self/mounts", etc, "mtab"));
        match link {
            // A dangling link of the image stays as it is.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).trying(Kind::MountFailed, "make /etc/mtab"),
        }
    }
    Ok(())
}

/// Removes what an app wrote.
pub fn remove_scratch(app: &str) -> Outcome<()> {
    let base = scratch_of(app);
    remove_tree(&base).map_err(|errno| {
        let reason = crate::errno::describe(errno);
        Failure::new(Kind::MountFailed, format!("cannot remove {base}: {reason}"))
    })
}

fn remove_tree(path: &str) -> io::Result<()> {
    // Depth first with an explicit stack: an app chooses how deep its tree is.
    let mut pending = alloc::vec![String::from(path)];
    while let Some(current) = pending.last().cloned() {
        let mut children = Vec::new();
        for name in files::names_in(&current)? {
            let child = format!("{current}/{name}");
            let mode = lstat(&child)?.st_mode;
            if FileType::from_raw_mode(mode) == FileType::Directory {
                children.push(child);
            } else {
                unlink(&child)?;
            }
        }
        if children.is_empty() {
            rmdir(&current)?;
            pending.pop();
        } else {
            pending.append(&mut children);
        }
    }
    Ok(())
}
