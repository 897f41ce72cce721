//! The words for the kernel's error numbers that a pod can meet.

use alloc::format;
use alloc::string::{String, ToString};
use rustix::io::Errno;

/// "No such file or directory" and its like; the number for rare ones.
pub fn describe(errno: Errno) -> String {
    let words = match errno {
        Errno::NOENT => "No such file or directory",
        Errno::ACCESS => "Permission denied",
        Errno::PERM => "Operation not permitted",
        Errno::NOTDIR => "Not a directory",
        Errno::ISDIR => "Is a directory",
        Errno::EXIST => "File exists",
        Errno::LOOP => "Too many levels of symbolic links",
        Errno::NAMETOOLONG => "File name too long",
        Errno::NOEXEC => "Exec format error",
        Errno::TOOBIG => "Argument list too long",
        Errno::NOMEM => "Cannot allocate memory",
        Errno::NOSPC => "No space left on device",
        Errno::ROFS => "Read-only file system",
        Errno::INVAL => "Invalid argument",
        Errno::NODEV => "No such device",
        Errno::NXIO => "No such device or address",
        Errno::NOTBLK => "Block device required",
        Errno::BUSY => "Device or resource busy",
        Errno::IO => "Input/output error",
        Errno::TXTBSY => "Text file busy",
        Errno::AGAIN => "Resource temporarily unavailable",
        Errno::SRCH => "No such process",
        Errno::OPNOTSUPP => "Operation not supported",
        Errno::NOTTY => "Inappropriate ioctl for device",
        Errno::XDEV => "The path leads out of the root",
        Errno::NETUNREACH => "Network is unreachable",
        Errno::ADDRNOTAVAIL => "Cannot assign requested address",
        _ => return format!("error {}", errno.raw_os_error()),
    };
    words.to_string()
}
