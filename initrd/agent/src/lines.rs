//! Cutting an app's output into log records.

use crate::base64;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// Longest text of one record.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// A record whose text grows beyond this by escaping (control characters become six bytes) is sent
/// as base64, so that the line stays below 64 KiB.
const ENCODED_BYTES_MAX: usize = 60 * 1024;

/// Where a piece of output came from and when it was read.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "docs/protocol.md defines every field")]
pub struct Origin<'a> {
    pub time_ns: u64,
    pub uptime_ns: u64,
    pub app: &'a str,
    pub pid: i32,
    pub stream: &'a str,
}

#[derive(Serialize)]
struct Record<'a> {
    time_ns: u64,
    uptime_ns: u64,
    app: &'a str,
    pid: i32,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One record as a line of JSON.
pub fn record(origin: &Origin<'_>, bytes: &[u8], partial: bool) -> Vec<u8> {
    let encode = |text: Option<&str>| {
        let base64 = text.is_none().then(|| base64::encode(bytes));
        let Origin { time_ns, uptime_ns, app, pid, stream } = *origin;
        let record = Record { time_ns, uptime_ns, app, pid, stream, text, base64, partial };
        serde_json::to_vec(&record).unwrap_or_default()
    };
    let mut line = encode(core::str::from_utf8(bytes).ok());
    if line.len() > ENCODED_BYTES_MAX {
        line = encode(None);
    }
    line.push(b'\n');
    line
}

/// Collects output until a newline or the limit.
#[derive(Debug, Default)]
pub struct LineCutter {
    pending: Vec<u8>,
}

impl LineCutter {
    /// Takes output in and hands each piece to `emit`, with true if its line goes on.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            if self.pending.len() == TEXT_BYTES_MAX && bytes.first() != Some(&b'\n') {
                self.cut(&mut emit);
            }
            let room = TEXT_BYTES_MAX - self.pending.len();
            let end = bytes.iter().take(room + 1).position(|byte| *byte == b'\n');
            if let Some(end) = end {
                self.pending.extend_from_slice(&bytes[..end]);
                emit(&self.pending, false);
                self.pending.clear();
                bytes = &bytes[end + 1..];
            } else {
                let (head, rest) = bytes.split_at(bytes.len().min(room));
                self.pending.extend_from_slice(head);
                bytes = rest;
            }
        }
    }

    /// Emits a full piece, keeping back the bytes of a character it would split.
    fn cut(&mut self, emit: &mut impl FnMut(&[u8], bool)) {
        let whole = match core::str::from_utf8(&self.pending) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.pending.len(),
        };
        emit(&self.pending[..whole], true);
        self.pending.drain(..whole);
    }

    /// Emits what is left once the stream has ended.
    pub fn finish(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.pending.is_empty() {
            emit(&self.pending, false);
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn pieces(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut cutter = LineCutter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, |piece, partial| out.push((piece.to_vec(), partial)));
        }
        cutter.finish(|piece, partial| out.push((piece.to_vec(), partial)));
        out
    }

    #[test]
    fn lines_across_chunks() {
        let expected = vec![(b"ab".to_vec(), false), (b"".to_vec(), false), (b"c".to_vec(), false)];
        assert_eq!(pieces(&[b"a", b"b\n\nc"]), expected);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut text = vec![b'x'; TEXT_BYTES_MAX - 1];
        text.extend_from_slice("é end\n".as_bytes());
        let out = pieces(&[&text]);
        assert_eq!(out.len(), 2);
        assert_eq!((out[0].0.len(), out[0].1), (TEXT_BYTES_MAX - 1, true));
        assert_eq!(out[1], ("é end".as_bytes().to_vec(), false));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let mut text = vec![b'x'; TEXT_BYTES_MAX];
        text.push(b'\n');
        let out = pieces(&[&text]);
        assert_eq!((out.len(), out[0].0.len(), out[0].1), (1, TEXT_BYTES_MAX, false));
    }

    #[test]
    fn records_stay_below_the_line_limit() {
        let origin = Origin { time_ns: 1, uptime_ns: 2, app: "a", pid: 3, stream: "stdout" };
        let line = record(&origin, &[1_u8; TEXT_BYTES_MAX], true);
        assert!(line.len() < 65536);
        assert!(line.windows(8).any(|window| window == b"\"base64\""));
        let line = record(&origin, b"hi \xff", false);
        assert!(line.ends_with(b"\"stream\":\"stdout\",\"base64\":\"aGkg/w==\"}\n"));
        let line = record(&origin, b"hi", false);
        assert!(line.ends_with(b"\"stream\":\"stdout\",\"text\":\"hi\"}\n"));
    }
}
