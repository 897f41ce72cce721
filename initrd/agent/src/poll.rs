//! The one epoll instance. Every descriptor is watched edge-triggered and worked on until it would
//! block: a virtio port without a host reports HUP all the time and would otherwise spin the loop.

use crate::failure::{Kind, Outcome, While};
use alloc::vec::Vec;
use core::fmt;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::Timespec;

/// What a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The control port.
    Control,
    /// The log port.
    Log,
    /// A process, a pipe or a terminal of the app with this number.
    App(u32),
    /// One of that app's ports, by its number.
    AppPort(u32, u8),
    /// The SSH server, its port, or the process of one of its sessions.
    Ssh,
}

impl Token {
    fn to_number(self) -> u64 {
        match self {
            Token::Control => 0,
            Token::Log => 1,
            Token::Ssh => u64::MAX,
            Token::App(id) => 2 + (u64::from(id) << 8 | 0xff),
            Token::AppPort(id, port) => 2 + (u64::from(id) << 8 | u64::from(port)),
        }
    }

    fn from_number(number: u64) -> Token {
        match number {
            0 => Token::Control,
            1 => Token::Log,
            u64::MAX => Token::Ssh,
            number => match ((number - 2) >> 8, (number - 2) & 0xff) {
                (id, 0xff) => Token::App(id as u32),
                (id, port) => Token::AppPort(id as u32, port as u8),
            },
        }
    }
}

/// The set of watched descriptors. A closed descriptor leaves it by itself.
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl fmt::Debug for Poll {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Poll").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poll {
    /// An empty set.
    pub fn new() -> Outcome<Poll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).trying(Kind::Internal, "create epoll")?;
        Ok(Poll { epoll, events: Vec::with_capacity(16) })
    }

    /// Watches a descriptor for everything.
    pub fn watch(&self, descriptor: impl AsFd, token: Token) -> Outcome<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token.to_number()), flags)
            .trying(Kind::Internal, "watch a descriptor")
    }

    /// Watches a descriptor no more that stays open in another process.
    pub fn forget(&self, descriptor: impl AsFd) -> Outcome<()> {
        epoll::delete(&self.epoll, descriptor).trying(Kind::Internal, "forget a descriptor")
    }

    /// Waits for events until `timeout_ns` are over, None for ever.
    pub fn wait(&mut self, timeout_ns: Option<u64>) -> Outcome<Vec<Token>> {
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).trying(Kind::Internal, "wait for events"),
        }
        let mut tokens: Vec<Token> = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let token = Token::from_number(event.data.u64());
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let tokens = [
            Token::Control,
            Token::Log,
            Token::App(0),
            Token::App(7),
            Token::AppPort(0, 0),
            Token::AppPort(7, 3),
            Token::Ssh,
        ];
        for token in tokens {
            assert_eq!(Token::from_number(token.to_number()), token);
        }
    }
}
