//! The messages of docs/protocol.md and their validation.

#[cfg(test)]
mod golden;
pub mod message;
pub mod spec;
pub mod validate;

/// The version both sides must speak.
pub const VERSION: u32 = 1;
