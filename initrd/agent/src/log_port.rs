//! The log port: records of all apps in one bounded queue.

use crate::control::flush_to;
use crate::failure::{Kind, Outcome, While};
use crate::port::Port;
use crate::ports;
use alloc::vec::Vec;
use rustix::fd::OwnedFd;

/// The last record of a pod.
pub const END: &[u8] = b"{\"end\":true}\n";

/// With this much queued no app's output is read until the host has taken some.
const QUEUE_BYTES: usize = 128 * 1024;

/// The queue and the counters that tell when a record has left it.
#[derive(Debug)]
pub struct LogPort {
    port: Port,
    queue: Vec<u8>,
    queued_total: u64,
}

impl LogPort {
    /// Takes the port over.
    pub fn new(port: OwnedFd) -> LogPort {
        LogPort { port: Port::new(port), queue: Vec::new(), queued_total: 0 }
    }

    /// The port, to watch it.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Whether more output may be read.
    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_BYTES
    }

    /// Queues one record.
    pub fn append(&mut self, line: &[u8]) {
        self.queue.extend_from_slice(line);
        self.queued_total += line.len() as u64;
    }

    /// Hands to the host what it takes.
    pub fn flush(&mut self) -> Outcome<()> {
        flush_to(&self.port, &mut self.queue).trying(Kind::Internal, "write to the log port")
    }

    /// The position after the last queued record.
    pub fn position(&self) -> u64 {
        self.queued_total
    }

    /// Whether the host has taken everything before `position`, or is gone.
    pub fn has_passed(&self, position: u64) -> bool {
        let waiting_bytes = self.queue.len() + self.port.pending_bytes();
        self.queued_total - waiting_bytes as u64 >= position || ports::is_disconnected(&self.port)
    }

    /// Whether the host has taken everything, or is gone.
    pub fn is_delivered(&self) -> bool {
        self.has_passed(self.queued_total)
    }
}
