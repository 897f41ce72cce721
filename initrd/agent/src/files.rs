//! Reading and writing small files, as `/proc`, `/sys` and cgroups have them.

use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, fstat, open};
use rustix::io::{self, Errno};
use rustix::path::Arg;

/// Reads at most `limit_bytes` from an open file; more is an error.
pub fn read_all(file: impl AsFd, limit_bytes: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        let count = match io::read(&file, &mut chunk) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        if count == 0 {
            return Ok(content);
        }
        if content.len() + count > limit_bytes {
            return Err(Errno::FBIG);
        }
        content.extend_from_slice(&chunk[..count]);
    }
}

/// Reads a file of at most `limit_bytes`.
pub fn read(path: impl Arg, limit_bytes: usize) -> io::Result<Vec<u8>> {
    read_all(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, limit_bytes)
}

/// Reads a file that an app may have put there: only a regular one, and without waiting for anybody.
/// A pipe in the place of `/etc/passwd` must not hold the agent up.
pub fn read_regular(path: impl Arg, limit_bytes: usize) -> io::Result<Vec<u8>> {
    read_all(open_regular(path)?, limit_bytes)
}

/// Opens a file to read, as [`read_regular`] does.
pub fn open_regular(path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    Ok(file)
}

/// Reads a number from a file that holds one and a newline.
pub fn read_number(path: &str) -> Option<u64> {
    let content = read(path, 64).ok()?;
    core::str::from_utf8(&content).ok()?.trim().parse().ok()
}

/// Writes `content` in one call, as kernel interfaces want it.
pub fn write(path: impl Arg, content: &[u8]) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::write(file, content).map(|_| ())
}

/// Makes a file with that content.
pub fn create(path: impl Arg, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::from_raw_mode(0o644))?;
    write_all(&file, content)
}

/// Writes all of `content`, however many calls it takes.
pub fn write_all(file: &OwnedFd, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        let count = io::write(file, content)?;
        content = content.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Makes a directory unless there is one: a scratch disk may have served the pod before.
pub fn make_directory(path: &str, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

/// The names in a directory, without `.` and `..`; those that are not UTF-8 are left out.
pub fn names_in(path: &str) -> io::Result<Vec<String>> {
    let names = raw_names_in(path)?;
    Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
}

/// The names in a directory, without `.` and `..`, whatever bytes they are.
pub fn raw_names_in(path: impl Arg) -> io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(2048);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
