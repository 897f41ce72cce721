//! Just enough of rtnetlink to set up interfaces, addresses and routes.

use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::io::{self, Errno};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const HEADER_BYTES: usize = 16;
const REPLY_BYTES: usize = 32 * 1024;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
/// Make it, fail if it exists.
pub const FLAG_CREATE_NEW: u16 = 0x600;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// A request under construction.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of that type; `flags` beyond those every request has.
    pub fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Message { bytes }
    }

    /// Adds a part of the fixed header.
    pub fn push(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute, padded to four bytes.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        while self.bytes.len() % 4 != 0 {
            self.bytes.push(0);
        }
        self
    }

    fn finish(mut self, extra_flags: u16) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes
    }
}

/// A message of the kernel: its type and what follows the header.
type Reply<'a> = (u16, &'a [u8]);

/// Takes the first message off `bytes`.
fn split_message(bytes: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let header = bytes.get(..HEADER_BYTES)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let body = bytes.get(HEADER_BYTES..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(((kind, body), rest))
}

/// The attributes of a message, type and value each.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some([l0, l1, k0, k1]) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let Some(value) = bytes.get(4..length) else { break };
        // The two high bits are flags.
        found.push((u16::from_ne_bytes([*k0, *k1]) & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn error_of(body: &[u8]) -> io::Result<()> {
    let Some(code) = body.first_chunk::<4>() else { return Err(Errno::BADMSG) };
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(-code)),
    }
}

/// A connection to the kernel's network configuration.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens it.
    pub fn open() -> io::Result<Netlink> {
        // Protocol 0 is NETLINK_ROUTE.
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::RAW, flags, None)?;
        Ok(Netlink { socket })
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let (count, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        Ok(&buffer[..count])
    }

    /// Sends a request and waits for its acknowledgement.
    pub fn change(&self, message: Message) -> io::Result<()> {
        send(&self.socket, &message.finish(FLAG_ACKNOWLEDGE), SendFlags::empty())?;
        let mut buffer = alloc::vec![0; REPLY_BYTES];
        let answer = self.receive(&mut buffer)?;
        match split_message(answer) {
            Some(((TYPE_ERROR, body), _)) => error_of(body),
            _ => Err(Errno::BADMSG),
        }
    }

    /// Sends a question and hands every answer to `each`.
    pub fn list(&self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        send(&self.socket, &message.finish(FLAG_DUMP), SendFlags::empty())?;
        let mut buffer = alloc::vec![0; REPLY_BYTES];
        loop {
            let mut rest = self.receive(&mut buffer)?;
            if rest.is_empty() {
                return Err(Errno::BADMSG);
            }
            while let Some(((kind, body), tail)) = split_message(rest) {
                match kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return error_of(body),
                    _ => each(body),
                }
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_read_back() {
        let bytes = Message::new(16, 0).push(&[1, 2, 3, 4]).attribute(3, b"eth0\0").finish(4);
        assert_eq!(bytes.len(), 16 + 4 + 12);
        let ((kind, body), rest) = split_message(&bytes).unwrap();
        assert_eq!((kind, rest.len()), (16, 0));
        assert_eq!(attributes(&body[4..]), [(3, b"eth0\0".as_slice())]);
        assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), FLAG_REQUEST | 4);
    }

    #[test]
    fn broken_answers_are_no_answers() {
        assert!(split_message(&[0; 15]).is_none());
        assert!(split_message(&[0xff; 32]).is_none());
        assert!(split_message(&[0; 32]).is_none());
        assert!(attributes(&[0; 8]).is_empty());
        assert!(attributes(&[0xff; 8]).is_empty());
    }
}
