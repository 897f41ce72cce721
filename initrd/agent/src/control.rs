//! The control port: lines in, lines out, both bounded.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::port::Sink;
use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};

/// Longest line the host may send.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// With more than this waiting to go out no further request is read.
const BACKLOG_BYTES: usize = 256 * 1024;
/// The driver takes at most 32 KiB in one write.
const READ_BYTES: usize = 16 * 1024;

/// One side of a line protocol over a non-blocking port.
#[derive(Debug)]
pub struct Control {
    port: OwnedFd,
    incoming: Vec<u8>,
    scanned: usize,
    outgoing: Vec<u8>,
}

impl Control {
    /// Takes the port over.
    pub fn new(port: OwnedFd) -> Control {
        Control { port, incoming: Vec::new(), scanned: 0, outgoing: Vec::new() }
    }

    /// The port, to watch it.
    pub fn port(&self) -> &OwnedFd {
        &self.port
    }

    /// Queues a line and sends what the host takes.
    pub fn send(&mut self, line: &[u8]) -> Outcome<()> {
        self.outgoing.extend_from_slice(line);
        self.flush()
    }

    /// Sends what the host takes.
    pub fn flush(&mut self) -> Outcome<()> {
        flush_to(&self.port, &mut self.outgoing).trying(Kind::Internal, "write to the host")
    }

    /// Whether everything was handed to the port.
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// The next line without its newline, None when there is none yet.
    pub fn next_line(&mut self) -> Outcome<Option<Vec<u8>>> {
        if self.outgoing.len() > BACKLOG_BYTES {
            return Ok(None);
        }
        loop {
            let unseen = self.incoming.get(self.scanned..).unwrap_or_default();
            if let Some(position) = unseen.iter().position(|byte| *byte == b'\n') {
                let rest = self.incoming.split_off(self.scanned + position + 1);
                let mut line = core::mem::replace(&mut self.incoming, rest);
                line.pop();
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.incoming.len();
            if self.scanned > LINE_BYTES_MAX {
                return Err(Failure::new(Kind::Internal, "the host sent a line above 4 MiB"));
            }
            let mut chunk = [0_u8; READ_BYTES];
            match io::read(&self.port, &mut chunk) {
                // Zero: nobody is at the host's end at the moment.
                Ok(0) | Err(Errno::AGAIN) => return Ok(None),
                Ok(count) => self.incoming.extend_from_slice(&chunk[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).trying(Kind::Internal, "read from the host"),
            }
        }
    }
}

/// Writes as much of a queue as the port takes.
pub fn flush_to(port: &impl Sink, queue: &mut Vec<u8>) -> io::Result<()> {
    let mut written = 0;
    let result = loop {
        let rest = queue.get(written..).unwrap_or_default();
        if rest.is_empty() {
            break Ok(());
        }
        match port.write(rest) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break Ok(()),
            Err(errno) => break Err(errno),
        }
    };
    queue.drain(..written);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    #[test]
    fn lines_are_cut_however_they_arrive() {
        let (host, guest) = pair();
        let mut control = Control::new(guest);
        io::write(&host, b"one\ntw").unwrap();
        assert_eq!(control.next_line().unwrap().unwrap(), b"one");
        assert_eq!(control.next_line().unwrap(), None);
        io::write(&host, b"o\n\nfour\n").unwrap();
        assert_eq!(control.next_line().unwrap().unwrap(), b"two");
        assert_eq!(control.next_line().unwrap().unwrap(), b"");
        assert_eq!(control.next_line().unwrap().unwrap(), b"four");
        assert_eq!(control.next_line().unwrap(), None);
    }

    #[test]
    fn a_host_that_does_not_read_blocks_nothing() {
        let (host, guest) = pair();
        let mut control = Control::new(guest);
        let line = [b'x'; 100_000];
        for _ in 0..20 {
            control.send(&line).unwrap();
        }
        assert!(!control.is_flushed());
        assert_eq!(control.next_line().unwrap(), None);
        let mut seen = 0;
        let mut buffer = [0; 65536];
        while seen < 2_000_000 {
            seen += io::read(&host, &mut buffer).unwrap();
            control.flush().unwrap();
        }
        assert!(control.is_flushed());
    }
}
