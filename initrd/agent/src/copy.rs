//! Copying a tree of files with everything that belongs to them: owners, modes, times, links, devices
//! and extended attributes.

use crate::beneath;
use crate::failure::{Kind, Outcome, While};
use crate::tree::{self, Found};
use alloc::format;
use alloc::vec::Vec;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod,
    chownat, linkat, lsetxattr, mkdir, mknodat, open, readlink, sendfile, symlink, utimensat,
};
use rustix::io::{self, Errno};
use rustix::process::chdir;

/// The most that is moved by one call.
const STEP_BYTES: u64 = 1 << 20;

/// Copies what is in the folder `from`, and what the folder itself is, to the empty folder `to`, an
/// absolute path that nobody else reaches meanwhile. Sockets are left out.
pub fn copy_tree(from: impl AsFd, to: &str) -> Outcome<()> {
    chdir(beneath::proc_path(from)).trying(Kind::Internal, "enter a folder to copy")?;
    let mut folders: Vec<(Vec<u8>, Stat)> = Vec::new();
    let result = tree::walk(|found| {
        let attempt = || format!("copy {}", tree::shown(found.path));
        let target = [to.as_bytes(), found.path].join(&b'/');
        copy(found, to, &target).trying(Kind::Internal, attempt())?;
        if found.kind == FileType::Directory {
            folders.push((target, found.stat));
        }
        Ok(())
    });
    chdir("/").trying(Kind::Internal, "leave a folder that was copied")?;
    result?;
    // Last, since what is made in a folder changes its time.
    while let Some((target, stat)) = folders.pop() {
        let attempt = format_args!("set the time of {}", tree::shown(&target));
        set_times(&target, &stat).trying(Kind::Internal, attempt)?;
    }
    Ok(())
}

fn copy(found: &Found<'_>, to: &str, target: &[u8]) -> io::Result<()> {
    if let Some(earlier) = found.earlier {
        let first = [to.as_bytes(), earlier].join(&b'/');
        return linkat(CWD, &first, CWD, target, AtFlags::empty());
    }
    let stat = &found.stat;
    let private = Mode::from_raw_mode(0o600);
    match found.kind {
        FileType::Directory if found.path == tree::TOP => {}
        FileType::Directory => mkdir(target, Mode::from_raw_mode(0o700))?,
        FileType::RegularFile => copy_content(found.path, target, stat.st_size as u64)?,
        FileType::Symlink => symlink(&readlink(found.path, Vec::new())?, target)?,
        FileType::Socket | FileType::Unknown => return Ok(()),
        kind => mknodat(CWD, target, kind, private, stat.st_rdev)?,
    }
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(CWD, target, Some(owner), Some(group), no_follow)?;
    if found.kind != FileType::Symlink {
        // After the owner, whose change takes set-ID bits and capabilities away.
        chmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    for (name, value) in tree::attributes(found.path)? {
        lsetxattr(target, &name, &value, XattrFlags::empty())?;
    }
    set_times(target, stat)
}

fn set_times(target: &[u8], stat: &Stat) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
    };
    utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_content(path: &[u8], target: &[u8], size_bytes: u64) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source: OwnedFd = open(path, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let copied = open(target, flags, Mode::from_raw_mode(0o600))?;
    let mut left = size_bytes;
    while left > 0 {
        match sendfile(&copied, &source, None, left.min(STEP_BYTES) as usize) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => left -= (count as u64).min(left),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_tree_is_copied_with_links_modes_and_times() {
        let base = std::env::temp_dir().join(format!("agent-copy-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("deep/file"), "content").unwrap();
        fs::hard_link(from.join("deep/file"), from.join("second")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("deep/link")).unwrap();
        fs::set_permissions(from.join("deep/er"), fs::Permissions::from_mode(0o1705)).unwrap();
        let mode = fs::Permissions::from_mode(0o750);
        fs::set_permissions(&from, mode).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let source = open(from.to_str().unwrap(), flags, Mode::empty()).unwrap();
        copy_tree(&source, to.to_str().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(to.join("second")).unwrap(), "content");
        let [file, second] = ["deep/file", "second"].map(|name| to.join(name).metadata().unwrap());
        assert_eq!((file.ino(), file.nlink()), (second.ino(), 2));
        assert_eq!(fs::read_link(to.join("deep/link")).unwrap().to_str(), Some("/etc/passwd"));
        for name in ["", "deep", "deep/er", "deep/file"] {
            let (old, new) = (from.join(name), to.join(name));
            let (old, new) = (old.metadata().unwrap(), new.metadata().unwrap());
            assert_eq!((new.mode(), new.mtime_nsec()), (old.mode(), old.mtime_nsec()), "{name}");
        }
        fs::remove_dir_all(base).unwrap();
    }
}
