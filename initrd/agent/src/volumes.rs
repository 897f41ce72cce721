//! The share that brings the host volumes, the empty volumes, and their mounts in an app.

use crate::beneath::{self, Leaf};
use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::{Mount, Share, Transport, Volume, VolumeKind};
use crate::{copy, files, layout};
use alloc::format;
use alloc::string::String;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Gid, Mode, Uid, chmod, chown, fstat, mkdir, rename, unlinkat};
use rustix::io::{self, Errno};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

const VOLUMES: &str = "/scratch/volumes";
/// Where volumes are filled before any app sees them; what is done leaves an empty file.
const INITIAL: &str = "/scratch/initial";

/// Mounts the share.
pub fn mount_share(share: &Share) -> Outcome<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let (filesystem, options) = match share.transport {
        Transport::Virtiofs => ("virtiofs", None),
        Transport::NineP => ("9p", Some(c"trans=virtio,version=9p2000.L,msize=131072,cache=mmap")),
    };
    mount(share.tag.as_str(), layout::SHARE, filesystem, flags, options)
        .trying(Kind::MountFailed, format_args!("mount the volumes' share with {filesystem}"))
}

/// Makes the directory of an empty volume.
pub fn make_empty(volume: &Volume) -> Outcome<()> {
    let path = source_of(volume);
    let attempt = format!("make the empty volume {}", volume.name);
    files::make_directory(VOLUMES, 0o755)
        .and_then(|()| files::make_directory(&path, 0o700))
        .trying(Kind::MountFailed, &attempt)?;
    let owner = Uid::from_raw(volume.uid.unwrap_or(0));
    let group = Gid::from_raw(volume.gid.unwrap_or(0));
    chown(&path, Some(owner), Some(group)).trying(Kind::MountFailed, &attempt)?;
    let mode = Mode::from_raw_mode(volume.mode.unwrap_or(0o755) & 0o7777);
    chmod(&path, mode).trying(Kind::MountFailed, &attempt)
}

fn source_of(volume: &Volume) -> String {
    match volume.kind {
        VolumeKind::Host => format!("{}/{}", layout::SHARE, volume.name),
        VolumeKind::Empty => format!("{VOLUMES}/{}", volume.name),
    }
}

/// Opens the place for a volume, making what is missing. A file in a folder's place gives way to it
/// (appc/spec, ace.md, "Volume Setup").
fn make_place(root: &OwnedFd, path: &str, leaf: Leaf) -> io::Result<OwnedFd> {
    let place = beneath::make(root, path, leaf, 0o755)?;
    if leaf != Leaf::Directory || beneath::is_directory(&place)? {
        return Ok(place);
    }
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    let parent = beneath::open(root, if parent.is_empty() { "/" } else { parent })?;
    unlinkat(&parent, name, AtFlags::empty())?;
    beneath::make(root, path, leaf, 0o755)
}

/// Mounts a volume in an app's root.
pub fn mount_in(root: &OwnedFd, wanted: &Mount, volumes: &[Volume]) -> Outcome<()> {
    let Some(volume) = volumes.iter().find(|volume| volume.name == wanted.volume) else {
        let message = format!("mount {}: the pod has no volume {}", wanted.path, wanted.volume);
        return Err(Failure::new(Kind::InvalidSpec, message));
    };
    let attempt = format!("mount volume {} on {}", volume.name, wanted.path);
    let source = source_of(volume);
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let place = rustix::fs::open(&source, flags, Mode::empty())
        .and_then(beneath::is_directory)
        .map(|directory| if directory { Leaf::Directory } else { Leaf::File })
        .and_then(|leaf| make_place(root, &wanted.path, leaf))
        .trying(Kind::MountFailed, &attempt)?;
    if volume.initialize && volume.kind == VolumeKind::Empty {
        initialize(volume, root, &place)?;
    }
    mount_bind(&source, beneath::proc_path(&place)).trying(Kind::MountFailed, &attempt)?;
    if volume.read_only || wanted.read_only {
        let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
        if volume.kind == VolumeKind::Host {
            flags |= MountFlags::NOSUID;
        }
        beneath::open(root, &wanted.path)
            .and_then(|covered| mount_remount(beneath::proc_path(&covered), flags, c""))
            .trying(Kind::MountFailed, format_args!("{attempt} read-only"))?;
    }
    Ok(())
}

/// Lets a volume begin, once, with what the image has at its place, which is made elsewhere: another
/// app of the pod cannot put links in the way. What is mounted at the place is none of the image's.
fn initialize(volume: &Volume, root: &OwnedFd, place: &OwnedFd) -> Outcome<()> {
    let attempt = format!("fill the volume {} from the image", volume.name);
    let begin = || -> io::Result<Option<String>> {
        if fstat(place)?.st_dev != fstat(root)?.st_dev || !beneath::is_directory(place)? {
            return Ok(None);
        }
        files::make_directory(INITIAL, 0o700)?;
        let fresh = format!("{INITIAL}/{}", volume.name);
        match mkdir(&fresh, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok(Some(fresh)),
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(errno),
        }
    };
    let Some(fresh) = begin().trying(Kind::MountFailed, &attempt)? else { return Ok(()) };
    copy::copy_tree(place, &fresh).map_err(|failure| {
        Failure::new(Kind::MountFailed, format!("cannot {attempt}: {}", failure.message))
    })?;
    rename(&fresh, source_of(volume))
        .and_then(|()| files::create(&fresh, b""))
        .trying(Kind::MountFailed, &attempt)
}
