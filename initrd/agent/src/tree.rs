//! Going over a tree of files: each once, folders before what is in them, in the order of their
//! names, without following a symbolic link and without leaving the filesystem.
//!
//! Paths are relative to the working directory, so that a tree as deep as a path may be long is gone
//! over wherever it is mounted.

use crate::failure::{Kind, Outcome, While};
use crate::files;
use crate::tar::Attribute;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Stat, lgetxattr, llistxattr, lstat};
use rustix::io::{self, Errno};

/// The path of the top.
pub const TOP: &[u8] = b".";

/// The kernel's own bounds (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LIST_BYTES_MAX: usize = 64 * 1024;
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A file that is come upon.
#[derive(Debug)]
pub struct Found<'a> {
    /// Relative to the working directory; [`TOP`] for the top itself.
    pub path: &'a [u8],
    /// What it is.
    pub kind: FileType,
    /// What the filesystem says about it.
    pub stat: Stat,
    /// The path under which the same file was come upon before.
    pub earlier: Option<&'a [u8]>,
}

/// Shows each file of the tree below the working directory to `visit`, the top first.
pub fn walk(mut visit: impl FnMut(&Found<'_>) -> Outcome<()>) -> Outcome<()> {
    let top = lstat(TOP).trying(Kind::Internal, "look at the top of a tree")?;
    let mut linked: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut pending = alloc::vec![TOP.to_vec()];
    while let Some(path) = pending.pop() {
        let attempt = || alloc::format!("read {}", shown(&path));
        let stat = lstat(&path).trying(Kind::Internal, attempt())?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_folder = kind == FileType::Directory;
        if is_folder && stat.st_dev != top.st_dev {
            continue;
        }
        let mut earlier = None;
        if !is_folder && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            match linked.get(&identity) {
                Some(first) => earlier = Some(first.clone()),
                None => drop(linked.insert(identity, path.clone())),
            }
        }
        visit(&Found { path: &path, kind, stat, earlier: earlier.as_deref() })?;
        if is_folder {
            let mut names = files::raw_names_in(&path).trying(Kind::Internal, attempt())?;
            names.sort_unstable_by(|left, right| right.cmp(left));
            pending.extend(names.into_iter().map(|name| joined(&path, &name)));
        }
    }
    Ok(())
}

/// A path in a folder, which may be the top.
fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder == TOP { name.to_vec() } else { [folder, name].join(&b'/') }
}

/// A path for messages.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().collect()
}

/// The extended attributes of a file that belong to it wherever it is, by name. What the kernel keeps
/// for itself (overlayfs, security modules) and access control lists, which squashfs cannot hold,
/// are left out; a name with `=` has no place in an archive.
pub fn attributes(path: &[u8]) -> io::Result<Vec<Attribute>> {
    let mut names = Vec::with_capacity(LIST_BYTES_MAX);
    match llistxattr(path, spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| travels(name)) {
        let mut value = Vec::with_capacity(VALUE_BYTES_MAX);
        lgetxattr(path, name, spare_capacity(&mut value))?;
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

fn travels(name: &[u8]) -> bool {
    let belongs = name.starts_with(b"user.")
        || name == b"security.capability"
        || (name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay."));
    belongs && !name.contains(&b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_belong_to_the_file_travel() {
        for name in ["user.a", "security.capability", "trusted.x"] {
            assert!(travels(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "trusted.overlay.opaque",
            "security.selinux",
            "system.posix_acl_access",
            "user.a=b",
        ] {
            assert!(!travels(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn paths_are_joined_and_shown_safely() {
        assert_eq!(joined(TOP, b"a"), b"a");
        assert_eq!(joined(b"a", b"b"), b"a/b");
        assert_eq!(shown(b"a\n\xff\x1b"), "a\\n\u{fffd}\\u{1b}");
    }
}
