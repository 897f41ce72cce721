//! A port written one buffer at a time, so that the agent knows what the host has taken.
//!
//! The driver queues up to a hundred non-blocking writes and says "writable" as long as its queue
//! has room. What is still queued when the machine is reset is lost, so "written" is not enough. With
//! one write outstanding, the next event of the port is the interrupt that says the host took it.

use crate::ports;
use core::cell::Cell;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno};

/// The driver takes no more in one write.
const WRITE_BYTES_MAX: usize = 32 * 1024;

/// A virtio-serial port of the host's.
#[derive(Debug)]
pub struct Port {
    descriptor: OwnedFd,
    pending_bytes: Cell<usize>,
}

impl Port {
    /// Takes the open port over.
    pub fn new(descriptor: OwnedFd) -> Port {
        Port { descriptor, pending_bytes: Cell::new(0) }
    }

    /// An event of the port has come.
    pub fn note_event(&self) {
        self.pending_bytes.set(0);
    }

    /// How much was written that the host has not taken yet.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes.get()
    }

    /// Whether the host has taken all that was written, or is not there to take it.
    pub fn has_delivered(&self) -> bool {
        self.pending_bytes.get() == 0 || ports::is_disconnected(&self.descriptor)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Something bytes can be written to without waiting.
pub trait Sink {
    /// As `write(2)`: `AGAIN` when it would have to wait.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Sink for Port {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending_bytes.get() > 0 {
            return Err(Errno::AGAIN);
        }
        let count = io::write(self, &bytes[..bytes.len().min(WRITE_BYTES_MAX)])?;
        self.pending_bytes.set(count);
        Ok(count)
    }
}

impl Sink for OwnedFd {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        io::write(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn one_write_at_a_time() {
        let flags = SocketFlags::NONBLOCK;
        let (host, guest) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let port = Port::new(guest);
        assert!(port.has_delivered());
        assert_eq!(port.write(&[0; 40_000]), Ok(WRITE_BYTES_MAX));
        assert_eq!(port.write(b"x"), Err(Errno::AGAIN));
        assert!(!port.has_delivered());
        port.note_event();
        assert!(port.has_delivered());
        assert_eq!(port.write(b"x"), Ok(1));
        drop(host);
        assert!(port.has_delivered());
    }
}
