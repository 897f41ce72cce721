//! Moving bytes between two non-blocking descriptors without ever waiting for either.

use crate::port::Sink;
use alloc::vec::Vec;
use rustix::fd::AsFd;
use rustix::io::{self, Errno};

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks moved before others get their turn.
const CHUNKS_PER_TURN: usize = 16;

/// Where a relay stands after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// One side is not ready: its event comes later.
    Waiting,
    /// There is more to do right away.
    More,
    /// The source has ended and everything was delivered.
    Done,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Relay {
    buffer: Vec<u8>,
    delivered: usize,
    source_ended: bool,
    sink_ended: bool,
}

impl Relay {
    /// Moves what can be moved.
    pub fn turn(&mut self, source: impl AsFd, sink: &impl Sink) -> Turn {
        for _ in 0..CHUNKS_PER_TURN {
            if !self.deliver(sink) {
                return Turn::Waiting;
            }
            if self.source_ended {
                return Turn::Done;
            }
            if !self.fetch(&source) {
                return Turn::Waiting;
            }
        }
        Turn::More
    }

    /// Whether nobody takes the bytes any more.
    pub fn sink_ended(&self) -> bool {
        self.sink_ended
    }

    /// Whether bytes wait for the sink.
    pub fn waits_for_sink(&self) -> bool {
        self.delivered < self.buffer.len()
    }

    /// Forgets that the source reported its end: a port's host may still come.
    pub fn reopen(&mut self) {
        self.source_ended = false;
    }

    /// False if the sink is not ready.
    fn deliver(&mut self, sink: &impl Sink) -> bool {
        while let Some(rest) = self.buffer.get(self.delivered..).filter(|rest| !rest.is_empty()) {
            match sink.write(rest) {
                Ok(count) => self.delivered += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.sink_ended = true;
                    break;
                }
            }
        }
        self.buffer.clear();
        self.delivered = 0;
        true
    }

    /// False if the source has nothing yet.
    fn fetch(&mut self, source: impl AsFd) -> bool {
        self.buffer.resize(CHUNK_BYTES, 0);
        let result = io::read(source, &mut self.buffer[..]);
        self.buffer.truncate(result.unwrap_or(0));
        match result {
            Ok(0) => self.source_ended = true,
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // A terminal's master reports the end of the last process as an error.
            Err(_) => self.source_ended = true,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::vec;

    #[test]
    fn back_pressure_and_end() {
        let (source, feed) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let (drain, sink) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut relay = Relay::default();
        assert_eq!(relay.turn(&source, &sink), Turn::Waiting);
        let mut fed = 0;
        loop {
            let result = io::write(&feed, &vec![b'x'; 65536]);
            match result {
                Ok(count) => fed += count,
                Err(_) if relay.turn(&source, &sink) == Turn::Waiting => break,
                Err(_) => {}
            }
            if fed > 1_000_000 {
                break;
            }
        }
        // Both pipes are full: nothing was lost, nothing blocked.
        drop(feed);
        let (mut seen, mut buffer) = (0, vec![0; 65536]);
        loop {
            let turn = relay.turn(&source, &sink);
            while let Ok(count) = io::read(&drain, &mut buffer[..]) {
                seen += count;
            }
            if turn == Turn::Done {
                break;
            }
        }
        assert_eq!(seen, fed);
    }

    #[test]
    fn a_gone_sink_swallows() {
        let (source, feed) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let (drain, sink) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        drop(drain);
        io::write(&feed, b"x").unwrap();
        let mut relay = Relay::default();
        assert_eq!(relay.turn(&source, &sink), Turn::Waiting);
        assert!(relay.sink_ended());
    }
}
