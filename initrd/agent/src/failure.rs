//! What can go wrong, in the words and kinds of the protocol.

use alloc::format;
use alloc::string::String;
use core::fmt::Display;
use rustix::io::Errno;
use serde::Serialize;

/// The machine-readable part of an error (docs/protocol.md, "Requests").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the protocol's and say it")]
pub enum Kind {
    InvalidSpec = 1,
    NoSuchApp,
    WrongState,
    NoSuchUser,
    NoSuchGroup,
    NoSuchExecutable,
    ExecFailed,
    NoSuchDirectory,
    MountFailed,
    DiskMissing,
    CgroupFailed,
    HandlerFailed,
    NetworkFailed,
    Internal,
}

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::InvalidSpec,
        Kind::NoSuchApp,
        Kind::WrongState,
        Kind::NoSuchUser,
        Kind::NoSuchGroup,
        Kind::NoSuchExecutable,
        Kind::ExecFailed,
        Kind::NoSuchDirectory,
        Kind::MountFailed,
        Kind::DiskMissing,
        Kind::CgroupFailed,
        Kind::HandlerFailed,
        Kind::NetworkFailed,
        Kind::Internal,
    ];

    /// The kind a child process wrote as one byte.
    pub fn from_byte(byte: u8) -> Kind {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte).unwrap_or(Kind::Internal)
    }
}

/// A failure with the sentence the user reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub kind: Kind,
    /// For people: what was attempted, on what, why it failed.
    pub message: String,
}

/// What a step gives.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure in words.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }
}

/// Adds to a system error what was being done.
pub trait While<T> {
    /// `attempt` reads as "cannot ATTEMPT: reason".
    fn trying(self, kind: Kind, attempt: impl Display) -> Outcome<T>;
}

impl<T> While<T> for Result<T, Errno> {
    fn trying(self, kind: Kind, attempt: impl Display) -> Outcome<T> {
        self.map_err(|errno| {
            Failure::new(kind, format!("cannot {attempt}: {}", crate::errno::describe(errno)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_pipe() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_byte(kind as u8), kind);
        }
        assert_eq!(Kind::from_byte(250), Kind::Internal);
    }

    #[test]
    fn kinds_are_spelled_as_in_the_protocol() {
        let text = serde_json::to_string(&Kind::NoSuchExecutable).unwrap();
        assert_eq!(text, "\"no-such-executable\"");
    }
}
