//! Finding block devices by serial and mounting them.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::Disk;
use crate::{files, layout, ports};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::mount::{MountFlags, mount};

/// The serial of a scratch disk.
pub const SCRATCH_SERIAL: &str = "scratch";

/// Where a disk is mounted.
pub fn mount_point(serial: &str) -> String {
    if serial == SCRATCH_SERIAL {
        String::from(layout::SCRATCH)
    } else {
        format!("{}/{serial}", layout::DISKS)
    }
}

/// The serial of a block device: virtio-blk has it as an attribute, SCSI in page 0x80 of its vital
/// product data, after a header of 4 bytes.
fn serial_of(device: &str) -> Option<Vec<u8>> {
    let serial = files::read(format!("/sys/block/{device}/serial"), 256);
    if let Ok(serial) = serial {
        return Some(serial.trim_ascii().to_vec());
    }
    let page = files::read(format!("/sys/block/{device}/device/vpd_pg80"), 256).ok()?;
    Some(page.get(4..)?.trim_ascii().to_vec())
}

fn find(serial: &str) -> Option<String> {
    let devices = files::names_in("/sys/block").ok()?;
    devices.into_iter().find(|device| serial_of(device).as_deref() == Some(serial.as_bytes()))
}

/// Whether a disk has appeared.
pub fn is_there(serial: &str) -> bool {
    find(serial).is_some()
}

/// The failure for a disk that does not appear.
pub fn missing(serial: &str) -> Failure {
    let message = format!("the machine has no disk with the serial {serial}");
    Failure::new(Kind::DiskMissing, message)
}

/// Mounts a disk, waiting for it to appear.
pub fn mount_disk(disk: &Disk) -> Outcome<()> {
    let device = ports::wait_for(|| find(&disk.serial)).ok_or_else(|| missing(&disk.serial))?;
    let place = mount_point(&disk.serial);
    files::make_directory(&place, 0o755).trying(Kind::MountFailed, format_args!("make {place}"))?;
    let read_only = if disk.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = read_only | MountFlags::NODEV;
    mount(format!("/dev/{device}"), &place, disk.filesystem.as_str(), flags, None).trying(
        Kind::MountFailed,
        format_args!("mount disk {} ({}) as {}", disk.serial, device, disk.filesystem),
    )
}

/// Without a scratch disk the apps write to memory.
pub fn mount_scratch_in_memory() -> Outcome<()> {
    mount("tmpfs", layout::SCRATCH, "tmpfs", MountFlags::NODEV, c"mode=0755")
        .trying(Kind::MountFailed, "mount a tmpfs for what apps write")
}
