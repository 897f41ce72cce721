//! Why a program could not be executed, in words: the kernel says "No such file" also for a missing
//! loader or interpreter.

use crate::failure::{Failure, Kind};
use crate::{errno, files};
use alloc::format;
use alloc::string::{String, ToString};
use rustix::fs::{FileType, stat};
use rustix::io::{self, Errno};

/// What is read of a program: its headers, or its `#!` line.
const HEAD_BYTES: usize = 4096;
const PROGRAM_HEADER_INTERPRETER: u32 = 3;
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// What else must exist for a program to run, read from its first bytes.
pub fn interpreter_of(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
        let path = line.split(|byte| *byte == b' ' || *byte == b'\t').next()?;
        return Some(String::from_utf8_lossy(path).into_owned());
    }
    elf_interpreter(head)
}

fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The `PT_INTERP` of a 64-bit little-endian ELF file.
fn elf_interpreter(head: &[u8]) -> Option<String> {
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(number(head, 32)?)).ok()?;
    let entry_bytes = usize::from(u16::from_le_bytes(number(head, 54)?));
    let entries = usize::from(u16::from_le_bytes(number(head, 56)?));
    for index in 0..entries {
        let entry = table.checked_add(index.checked_mul(entry_bytes)?)?;
        if u32::from_le_bytes(number(head, entry)?) != PROGRAM_HEADER_INTERPRETER {
            continue;
        }
        let start =
            usize::try_from(u64::from_le_bytes(number(head, entry.checked_add(8)?)?)).ok()?;
        let text = head.get(start..)?.split(|byte| *byte == 0).next()?;
        return Some(String::from_utf8_lossy(text).into_owned());
    }
    None
}

fn is_foreign_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
        && (head.get(4) != Some(&2) || number(head, 18).map(u16::from_le_bytes) != Some(MACHINE))
}

fn head_of(path: &str) -> io::Result<([u8; HEAD_BYTES], usize)> {
    let mut head = [0; HEAD_BYTES];
    let file = files::open_regular(path)?;
    let count = io::read(file, &mut head)?;
    Ok((head, count))
}

/// The failure to report when executing `path` gave `reason`.
pub fn explain(path: &str, reason: Errno) -> Failure {
    let status = match stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let message = format!("there is no executable {path:?} in the image");
            return Failure::new(Kind::NoSuchExecutable, message);
        }
        result => result,
    };
    let is_directory =
        status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory);
    let (head, count) = head_of(path).unwrap_or(([0; HEAD_BYTES], 0));
    let head = &head[..count];
    let why = match reason {
        _ if is_directory => "it is a directory".to_string(),
        Errno::NOENT => match interpreter_of(head) {
            Some(interpreter) => {
                format!("its interpreter {interpreter:?} does not exist in the image")
            }
            None => "something it needs does not exist in the image".to_string(),
        },
        Errno::NOEXEC if is_foreign_elf(head) => {
            "it was built for another kind of processor".to_string()
        }
        Errno::NOEXEC => "it is neither a program for this machine nor starts with #!".to_string(),
        Errno::ACCESS => "permission denied (is it marked executable for this user?)".to_string(),
        _ => errno::describe(reason),
    };
    Failure::new(Kind::ExecFailed, format!("cannot execute {path:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_of_scripts() {
        let of = |text: &str| interpreter_of(text.as_bytes());
        assert_eq!(of("#!/bin/sh -e\necho").as_deref(), Some("/bin/sh"));
        assert_eq!(of("#! /usr/bin/env\tpython\n").as_deref(), Some("/usr/bin/env"));
        assert_eq!(of("echo"), None);
    }

    #[test]
    fn interpreters_of_programs() {
        let mut head = std::vec![0_u8; 200];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[32] = 64;
        head[54] = 56;
        head[56] = 1;
        head[64] = 3;
        head[72] = 120;
        head[120..126].copy_from_slice(b"/ld.so");
        assert_eq!(interpreter_of(&head).as_deref(), Some("/ld.so"));
        head[39] = 0xff;
        assert_eq!(interpreter_of(&head), None);
    }

    #[test]
    fn failures_name_the_cause() {
        assert_eq!(explain("/no/such", Errno::NOENT).kind, Kind::NoSuchExecutable);
        let directory = explain("/", Errno::ACCESS);
        assert_eq!(directory.message, "cannot execute \"/\": it is a directory");
    }
}
