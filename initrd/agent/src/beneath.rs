//! Paths inside an app's root, resolved as if it were already `/`: no symbolic link of an image can
//! lead a mount out of it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::{self, Errno};

/// Deepest path that is created.
const DEPTH_MAX: usize = 64;

/// What the end of a path is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// Opens a path inside `root` as a place to mount on (`O_PATH`).
pub fn open(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
}

/// The path that names an open descriptor, for calls that take only paths.
pub fn proc_path(descriptor: impl AsFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

/// Opens a path inside `root`, making what is missing: directories with mode 0755 and a leaf with
/// `mode`.
pub fn make(root: impl AsFd, path: &str, leaf: Leaf, mode: u32) -> io::Result<OwnedFd> {
    match open(&root, path) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let components: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if components.len() > DEPTH_MAX || components.contains(&"..") {
        return Err(Errno::INVAL);
    }
    let mut prefix = String::new();
    let mut parent = open(&root, "/")?;
    for (index, component) in components.iter().enumerate() {
        prefix.push('/');
        prefix.push_str(component);
        let is_leaf = index + 1 == components.len();
        parent = match open(&root, &prefix) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(if is_leaf { mode } else { 0o755 });
                if is_leaf && leaf == Leaf::File {
                    make_file(&parent, component, mode)?;
                } else {
                    mkdirat(&parent, *component, mode)?;
                }
                open(&root, &prefix)?
            }
            result => result?,
        };
    }
    Ok(parent)
}

/// Makes a file; a dangling symbolic link of that name (an image's `resolv.conf` often is one)
/// gives way to it.
fn make_file(parent: &OwnedFd, name: &str, mode: Mode) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let create = || rustix::fs::openat(parent, name, flags, mode).map(|_| ());
    match create() {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            create()
        }
        result => result,
    }
}

/// Whether an open descriptor is a directory.
pub fn is_directory(descriptor: impl AsFd) -> io::Result<bool> {
    let mode = rustix::fs::fstat(descriptor)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(name: &str) -> (std::path::PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("agent-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let descriptor = rustix::fs::open(path.to_str().unwrap(), flags, Mode::empty()).unwrap();
        (path, descriptor)
    }

    #[test]
    fn links_stay_inside() {
        let (path, root) = root("links");
        fs::create_dir_all(path.join("real")).unwrap();
        symlink("/real", path.join("absolute")).unwrap();
        symlink("../../../../real", path.join("climbing")).unwrap();
        for link in ["/absolute/a", "/climbing/b"] {
            make(&root, link, Leaf::Directory, 0o755).unwrap();
        }
        assert!(path.join("real/a").is_dir() && path.join("real/b").is_dir());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn missing_parts_are_made_and_dangling_file_links_replaced() {
        let (path, root) = root("make");
        make(&root, "/a/b/c", Leaf::File, 0o644).unwrap();
        assert!(path.join("a/b/c").is_file());
        symlink("/nowhere/x", path.join("a/link")).unwrap();
        make(&root, "/a/link", Leaf::File, 0o644).unwrap();
        assert!(path.join("a/link").symlink_metadata().unwrap().is_file());
        symlink("/nowhere", path.join("a/dir")).unwrap();
        assert!(make(&root, "/a/dir", Leaf::Directory, 0o755).is_err());
        assert_eq!(make(&root, "/a/../x", Leaf::Directory, 0o755).unwrap_err(), Errno::INVAL);
        fs::remove_dir_all(path).unwrap();
    }
}
