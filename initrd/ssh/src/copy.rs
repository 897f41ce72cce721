//! Copying files in and out of an app, as a program inside it: a tar archive on a stream, so that
//! the image needs none. The archive holds one tree, named `x`.

use rustix::fs::{CWD, FileType, Gid, Mode, StatFs, Timespec, Timestamps, Uid};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use tar::{Archive, Builder, Entry, EntryType, Header};

/// The name of the tree in the archive.
const TOP: &str = "x";
const BUFFER_BYTES: usize = 256 * 1024;
/// What the kernel shows of itself is no file to copy (`linux/magic.h`): proc, sysfs, devpts,
/// cgroup2, mqueue.
const OF_THE_KERNEL: [u64; 5] = [0x9fa0, 0x6265_6572, 0x1cd1, 0x6367_7270, 0x1980_0202];

/// Does what the words say: `out PATH`, or `in PATH NAME`, the name being the source's.
pub fn main(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["out", path] => send(Path::new(path)),
        ["in", path, name] => receive(Path::new(path), name),
        _ => Err(Problem(String::from("the words are out PATH, or in PATH NAME"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Problem(problem)) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A sentence for the person.
struct Problem(String);

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem(format!("cannot copy: {}", plainly(&error)))
    }
}

/// An error without the system's number.
fn plainly(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Names the file in an error.
fn at<'a>(doing: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Problem + 'a {
    move |error| Problem(format!("cannot {doing} {}: {}", path.display(), plainly(&error)))
}

// -- out ------------------------------------------------------------------------------------------

fn send(path: &Path) -> Result<(), Problem> {
    let metadata = fs::symlink_metadata(path).map_err(at("copy", path))?;
    let output = io::BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut builder = Builder::new(output);
    append(&mut builder, path, Path::new(TOP), &metadata)?;
    builder.into_inner()?.flush()?;
    Ok(())
}

fn append(
    builder: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> Result<(), Problem> {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_uid(u64::from(metadata.uid()));
    header.set_gid(u64::from(metadata.gid()));
    let kind = metadata.file_type();
    if kind.is_dir() {
        header.set_size(0);
        builder.append_data(&mut header, name.join(""), io::empty())?;
        return append_below(builder, path, name, metadata);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(at("read the link", path))?;
        header.set_size(0);
        builder.append_link(&mut header, name, target)?;
    } else if kind.is_file() {
        let file = File::open(path).map_err(at("open", path))?;
        // Exactly as long as its header says, whatever happens to the file meanwhile.
        let content = file.chain(io::repeat(0)).take(metadata.len());
        builder.append_data(&mut header, name, content)?;
    } else if kind.is_fifo() {
        header.set_entry_type(EntryType::Fifo);
        header.set_size(0);
        builder.append_data(&mut header, name, io::empty())?;
    } else {
        eprintln!("{} is a device or a socket, and not copied", path.display());
    }
    Ok(())
}

fn append_below(
    builder: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> Result<(), Problem> {
    let mut entries = fs::read_dir(path)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(at("read", path))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        // It may have been deleted a moment ago.
        let Ok(below) = fs::symlink_metadata(&path) else { continue };
        let is_mount = below.is_dir() && below.dev() != metadata.dev();
        if is_mount && is_of_the_kernel(&path) {
            continue;
        }
        append(builder, &path, &name, &below)?;
    }
    Ok(())
}

fn is_of_the_kernel(path: &Path) -> bool {
    let known = |found: StatFs| OF_THE_KERNEL.contains(&(found.f_type as u64));
    rustix::fs::statfs(path).is_ok_and(known)
}

// -- in -------------------------------------------------------------------------------------------

/// What is set on a new directory once nothing changes in it any more, on other files at once.
struct Facts {
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
}

fn receive(path: &Path, name: &str) -> Result<(), Problem> {
    let mut archive = Archive::new(io::BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock()));
    let mut directories = Vec::new();
    let mut top: Option<PathBuf> = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let below = below_top(&entry.path()?)?;
        let top = match &top {
            Some(top) => top,
            None => top.insert(place(path, name, entry.header().entry_type().is_dir())?),
        };
        // Joined with nothing, a path would end in a slash and stand for a directory.
        let target = if below == Path::new("") { top.clone() } else { top.join(below) };
        make(&mut entry, &target, top, &mut directories)?;
    }
    // The deepest first: setting one's time must not be undone by what is set below it.
    for facts in directories.iter().rev() {
        facts.set().map_err(at("set the mode and owner of", &facts.path))?;
    }
    // What follows the archive's end is its padding.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// The path of an entry below the tree's top.
fn below_top(path: &Path) -> Result<PathBuf, Problem> {
    let mut parts = path.components();
    let is_top = parts.next() == Some(Component::Normal(OsStr::new(TOP)));
    if !is_top || !parts.clone().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Problem(format!("the archive has an entry {}", path.display())));
    }
    Ok(parts.as_path().to_owned())
}

/// Where the tree goes: into a directory that is there, under its own name; else to the path itself.
fn place(path: &Path, name: &str, is_tree: bool) -> Result<PathBuf, Problem> {
    match fs::metadata(path) {
        // Without a name it is the content of a directory that is copied.
        Ok(there) if there.is_dir() && name.is_empty() => Ok(path.to_owned()),
        Ok(there) if there.is_dir() => Ok(path.join(name)),
        Ok(_) if is_tree => Err(Problem(format!(
            "cannot copy a directory to {}: it is no directory",
            path.display()
        ))),
        Ok(_) => Ok(path.to_owned()),
        Err(_) if !is_tree && path.as_os_str().as_bytes().ends_with(b"/") => {
            Err(Problem(format!("cannot copy to {}: there is no such directory", path.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(at("copy to", path)(error)),
    }
}

fn make(
    entry: &mut Entry<'_, impl Read>,
    target: &Path,
    top: &Path,
    directories: &mut Vec<Facts>,
) -> Result<(), Problem> {
    let header = entry.header();
    let kind = header.entry_type();
    let facts = Facts {
        path: target.to_owned(),
        mode: header.mode()? & 0o7777,
        owner: (number(header.uid()?)?, number(header.gid()?)?),
        mtime: header.mtime()?,
    };
    if kind.is_dir() {
        if !fs::symlink_metadata(target).is_ok_and(|there| there.is_dir()) {
            fs::create_dir(target).map_err(at("make the directory", target))?;
            directories.push(facts);
        }
        return Ok(());
    }
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() => {
            let words = "cannot replace the directory";
            return Err(Problem(format!("{words} {} by a file", target.display())));
        }
        Ok(_) => fs::remove_file(target).map_err(at("replace", target))?,
        Err(_) => {}
    }
    make_leaf(entry, target, top, kind)?;
    facts.set().map_err(at("set the mode and owner of", target))
}

fn make_leaf(
    entry: &mut Entry<'_, impl Read>,
    target: &Path,
    top: &Path,
    kind: EntryType,
) -> Result<(), Problem> {
    match kind {
        EntryType::Symlink => {
            let link = entry.link_name()?.unwrap_or_default().into_owned();
            std::os::unix::fs::symlink(link, target).map_err(at("make the link", target))
        }
        EntryType::Link => {
            let earlier = top.join(below_top(&entry.link_name()?.unwrap_or_default())?);
            fs::hard_link(earlier, target).map_err(at("make the link", target))
        }
        EntryType::Fifo => {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, target, FileType::Fifo, mode, 0)
                .map_err(|errno| at("make the pipe", target)(errno.into()))
        }
        kind if kind.is_file() => {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .open(target)
                .map_err(at("make", target))?;
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                match entry.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => file.write_all(&buffer[..count]).map_err(at("write", target))?,
                }
            }
        }
        _ => Err(Problem(format!("{} is a device, and not copied", target.display()))),
    }
}

fn number(wide: u64) -> Result<u32, Problem> {
    u32::try_from(wide).map_err(|_| Problem(format!("there is no user or group {wide}")))
}

impl Facts {
    /// Owner first, since a change of it takes set-ID bits away.
    fn set(&self) -> io::Result<()> {
        use rustix::fs::AtFlags;
        let (uid, gid) = self.owner;
        let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, &self.path, Some(owner), Some(group), nofollow)?;
        if !fs::symlink_metadata(&self.path)?.is_symlink() {
            rustix::fs::chmod(&self.path, Mode::from_raw_mode(self.mode))?;
        }
        let time = Timespec { tv_sec: self.mtime as i64, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &self.path, &times, nofollow)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_top_are_taken() {
        let taken = |path: &str| below_top(Path::new(path)).ok();
        assert_eq!(taken("x"), Some(PathBuf::new()));
        assert_eq!(taken("x/"), Some(PathBuf::new()));
        assert_eq!(taken("x/a/b"), Some(PathBuf::from("a/b")));
        for bad in ["y", "/x", "x/../y", "..", "", "x/a/../../b"] {
            assert_eq!(taken(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tree_goes_into_a_directory_that_is_there() {
        let place = |path: &str, name: &str, is_tree| place(Path::new(path), name, is_tree).ok();
        assert_eq!(place("/tmp", "a", false), Some(PathBuf::from("/tmp/a")));
        assert_eq!(place("/tmp", "", true), Some(PathBuf::from("/tmp")));
        assert_eq!(place("/none", "a", true), Some(PathBuf::from("/none")));
        assert_eq!(place("/none/", "a", false), None);
        assert_eq!(place("/proc/version", "a", true), None);
        assert_eq!(place("/proc/version", "a", false), Some(PathBuf::from("/proc/version")));
    }
}
