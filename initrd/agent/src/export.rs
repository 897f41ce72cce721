//! An app's file system as its run has left it, sent to the host as a tar archive.
//!
//! Nothing is written: the image and the pod's scratch disk are mounted read-only, one over the other
//! as the app had them. So the archive is the same each time, and the disk stays what it was.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::ExportSpec;
use crate::tar::{self, Header};
use crate::tree::{self, Found};
use crate::{disks, layout, ports, rootfs};
use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, lstat, major, minor, open, readlink};
use rustix::io::{self, Errno};
use rustix::mount::{MountFlags, mount};
use rustix::process::chdir;

/// Where the tree is in the archive, which is that of an image.
const PREFIX: &[u8] = b"rootfs";
/// The port takes no more in one write.
const CHUNK_BYTES: usize = 32 * 1024;
/// As far as an archive's times go (squashfs has 32 bits for them).
const MTIME_SECONDS_MAX: i64 = u32::MAX as i64;

/// Sends the archive of an app's root and tells its length.
pub fn send(spec: &ExportSpec) -> Outcome<u64> {
    for disk in &spec.disks {
        disks::mount_disk(disk)?;
    }
    mount_root(spec)?;
    let mut output = Output::new(ports::wait_and_open(ports::EXPORT)?);
    chdir(layout::ROOT).trying(Kind::Internal, "enter the app's root")?;
    tree::walk(|found| send_file(found, &mut output))?;
    output.push(&tar::END)?;
    output.flush()?;
    Ok(output.sent_bytes)
}

/// As `rootfs` has it for an app that runs, but what the app wrote is a lower layer too.
fn mount_root(spec: &ExportSpec) -> Outcome<()> {
    let written = format!("{}/upper", rootfs::scratch_of(&spec.name));
    if lstat(&written).is_err_and(|errno| errno == Errno::NOENT) {
        let message = format!("the disk holds nothing of app {}: it was never started", spec.name);
        return Err(Failure::new(Kind::WrongState, message));
    }
    let image = format!("{}/{}", disks::mount_point(&spec.disk), spec.root);
    let attempt = format!("assemble the root of app {} from disk {}", spec.name, spec.disk);
    CString::new(format!("lowerdir={written}:{image}"))
        .map_err(|_| Errno::INVAL)
        .and_then(|options| {
            mount("overlay", layout::ROOT, "overlay", MountFlags::RDONLY, options.as_c_str())
        })
        .trying(Kind::MountFailed, attempt)
}

fn send_file(found: &Found<'_>, output: &mut Output) -> Outcome<()> {
    let Some(kind) = kind_of(found) else { return Ok(()) };
    let name = name_of(found.path);
    let attempt = || format!("read {}", tree::shown(found.path));
    if let Some(earlier) = found.earlier {
        let link = name_of(earlier);
        let header = Header { name: &name, kind, link: &link, ..Header::default() };
        return output.push(&header.to_blocks());
    }
    let stat = &found.stat;
    let link = match found.kind {
        FileType::Symlink => {
            readlink(found.path, Vec::new()).trying(Kind::Internal, attempt())?.into_bytes()
        }
        _ => Vec::new(),
    };
    let is_device = matches!(found.kind, FileType::CharacterDevice | FileType::BlockDevice);
    let size_bytes = if found.kind == FileType::RegularFile { stat.st_size as u64 } else { 0 };
    let attributes = tree::attributes(found.path).trying(Kind::Internal, attempt())?;
    let header = Header {
        name: &name,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size_bytes,
        mtime_seconds: stat.st_mtime.clamp(0, MTIME_SECONDS_MAX) as u64,
        link: &link,
        device: if is_device { (major(stat.st_rdev), minor(stat.st_rdev)) } else { (0, 0) },
        attributes: &attributes,
    };
    output.push(&header.to_blocks())?;
    if found.kind == FileType::RegularFile {
        send_content(found.path, size_bytes, output)?;
    }
    Ok(())
}

/// The archive's letter; None for sockets, which have a meaning only while their program runs.
fn kind_of(found: &Found<'_>) -> Option<u8> {
    let kind = match found.kind {
        FileType::RegularFile => b'0',
        FileType::Symlink => b'2',
        FileType::CharacterDevice => b'3',
        FileType::BlockDevice => b'4',
        FileType::Directory => b'5',
        FileType::Fifo => b'6',
        _ => return None,
    };
    Some(if found.earlier.is_some() { b'1' } else { kind })
}

fn name_of(path: &[u8]) -> Vec<u8> {
    if path == tree::TOP { PREFIX.to_vec() } else { [PREFIX, path].join(&b'/') }
}

fn send_content(path: &[u8], size_bytes: u64, output: &mut Output) -> Outcome<()> {
    let attempt = || format!("read {}", tree::shown(path));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).trying(Kind::Internal, attempt())?;
    let mut left = size_bytes;
    while left > 0 {
        let room = output.room()?;
        let size = left.min(room.len() as u64) as usize;
        let count = match io::read(&file, &mut room[..size]) {
            Err(Errno::INTR) => continue,
            result => result.trying(Kind::Internal, attempt())?,
        };
        if count == 0 {
            let message = format!("cannot {}: it ends before its size", attempt());
            return Err(Failure::new(Kind::Internal, message));
        }
        output.filled(count);
        left -= count as u64;
    }
    output.push(&[0; tar::BLOCK_BYTES][..tar::padding(size_bytes)])
}

/// The way to the host, in pieces as large as it takes.
struct Output {
    port: OwnedFd,
    chunk: Vec<u8>,
    used_bytes: usize,
    sent_bytes: u64,
}

impl Output {
    fn new(port: OwnedFd) -> Output {
        Output { port, chunk: alloc::vec![0; CHUNK_BYTES], used_bytes: 0, sent_bytes: 0 }
    }

    /// Where the next bytes go, at least one; those that are put there are announced by `filled`.
    fn room(&mut self) -> Outcome<&mut [u8]> {
        if self.used_bytes == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(&mut self.chunk[self.used_bytes..])
    }

    fn filled(&mut self, count: usize) {
        self.used_bytes += count;
    }

    fn push(&mut self, mut bytes: &[u8]) -> Outcome<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Hands over what waits, as fast as the host takes it.
    fn flush(&mut self) -> Outcome<()> {
        let mut from = 0;
        while from < self.used_bytes {
            match io::write(&self.port, &self.chunk[from..self.used_bytes]) {
                Ok(count) => from += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => {
                            return Err(errno).trying(Kind::Internal, "wait for the host");
                        }
                    }
                }
                Err(errno) => return Err(errno).trying(Kind::Internal, "write to the host"),
            }
        }
        self.sent_bytes += self.used_bytes as u64;
        self.used_bytes = 0;
        Ok(())
    }
}
