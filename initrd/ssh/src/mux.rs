//! Many streams over one port: frames with credit for each stream, so that one that is not read
//! holds up no other.
//!
//! A frame is a kind (1 byte), a stream's number and the length of what follows (4 bytes each, big
//! endian). The host opens streams; each side may have `CREDIT_BYTES` of a stream under way.

use bytes::{Buf, Bytes};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc};

/// What a side may send of a stream before the other has taken any of it.
pub const CREDIT_BYTES: usize = 256 * 1024;
/// Longest payload of a frame: the driver takes 32 KiB at once.
const DATA_BYTES_MAX: usize = 32 * 1024 - HEADER_BYTES;
const HEADER_BYTES: usize = 9;
/// The driver gives a page at a time.
const READ_BYTES: usize = 4096;
/// Read before the frames are looked at.
const BATCH_BYTES: usize = 64 * 1024;
/// Frames that wait for the port; the streams wait behind them.
const WAITING_FRAMES: usize = 16;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A new stream, from the host.
    Open = 1,
    /// Bytes of a stream.
    Data = 2,
    /// The receiver has taken so many bytes (4 bytes).
    Credit = 3,
    /// The stream is over, both ways; what its sender had sent before still counts.
    Close = 4,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Open, Kind::Data, Kind::Credit, Kind::Close]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    kind: Kind,
    stream: u32,
    payload: Bytes,
}

impl Frame {
    fn new(kind: Kind, stream: u32, payload: impl Into<Bytes>) -> Frame {
        Frame { kind, stream, payload: payload.into() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&(self.payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// What has arrived, and how much of it is behind us.
#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    taken: usize,
}

impl Arrived {
    /// Takes a whole frame from the front; None while there is none.
    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = rest.split_at_checked(HEADER_BYTES) else {
            self.tidy();
            return Ok(None);
        };
        let word =
            |at: usize| (0..4).fold(0, |word, next| word << 8 | u32::from(header[at + next]));
        let (kind, stream, length) = (Kind::of(header[0]), word(1), word(5) as usize);
        let Some(kind) = kind.filter(|_| length <= CREDIT_BYTES) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the host sent no frame"));
        };
        let Some(payload) = rest.get(..length) else {
            self.tidy();
            return Ok(None);
        };
        let payload = Bytes::copy_from_slice(payload);
        self.taken += HEADER_BYTES + length;
        Ok(Some(Frame { kind, stream, payload }))
    }

    /// Moves the beginning of a frame to the front.
    fn tidy(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
    }
}

/// What is known of an open stream.
struct Open {
    /// What arrived and is not taken yet; bounded by the credit.
    arrived: mpsc::UnboundedSender<Bytes>,
    /// What may be sent.
    credit: Arc<Semaphore>,
    tasks: [tokio::task::AbortHandle; 2],
}

/// Serves the port for ever; `accept` gets every new stream.
pub async fn serve(port: OwnedFd, accept: impl Fn(DuplexStream)) -> io::Result<()> {
    let port = Arc::new(crate::watched::watch(port)?);
    let (frames, waiting) = mpsc::channel(WAITING_FRAMES);
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut writer = tokio::spawn(write_frames(Arc::clone(&port), waiting));
    let mut streams: HashMap<u32, Open> = HashMap::new();
    let mut buffer = Arrived::default();
    loop {
        tokio::select! {
            result = read_some(&port, &mut buffer.bytes) => result?,
            result = &mut writer => return result?,
            Some(stream) = ended.recv() => {
                streams.remove(&stream);
            }
        }
        while let Some(frame) = buffer.next_frame()? {
            if frame.kind == Kind::Open {
                let (near, far) = tokio::io::duplex(CREDIT_BYTES);
                streams.insert(frame.stream, open(frame.stream, near, &frames, &done));
                accept(far);
                continue;
            }
            if let Some(stream) = streams.get_mut(&frame.stream) {
                if !stream.take(&frame) {
                    stream.tasks.iter().for_each(tokio::task::AbortHandle::abort);
                    streams.remove(&frame.stream);
                }
            }
            // Frames for a stream that has just ended here are late, not wrong.
        }
    }
}

impl Open {
    /// Acts on a frame; false when that was the stream's end.
    fn take(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            Kind::Data => {
                // Nobody takes the input of a stream that is ending.
                let _ = self.arrived.send(frame.payload.clone());
            }
            Kind::Credit => {
                let mut amount = frame.payload.clone();
                if amount.len() == 4 {
                    self.credit.add_permits((amount.get_u32() as usize).min(CREDIT_BYTES));
                }
            }
            Kind::Close | Kind::Open => return false,
        }
        true
    }
}

/// Starts a stream's two directions.
fn open(
    stream: u32,
    near: DuplexStream,
    frames: &mpsc::Sender<Frame>,
    done: &mpsc::UnboundedSender<u32>,
) -> Open {
    let (mut reader, mut writer) = tokio::io::split(near);
    let (arrived, mut arriving) = mpsc::unbounded_channel::<Bytes>();
    let credit = Arc::new(Semaphore::new(CREDIT_BYTES));
    let to_port = frames.clone();
    let input = tokio::spawn(async move {
        while let Some(bytes) = arriving.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                // The server has closed its side: that is told by the other direction.
                return;
            }
            let amount = (bytes.len() as u32).to_be_bytes().to_vec();
            if to_port.send(Frame::new(Kind::Credit, stream, amount)).await.is_err() {
                return;
            }
        }
    });
    let (to_port, allowed, done) = (frames.clone(), Arc::clone(&credit), done.clone());
    let output = tokio::spawn(async move {
        let mut chunk = vec![0; DATA_BYTES_MAX];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            let Ok(permits) = allowed.acquire_many(count as u32).await else { break };
            permits.forget();
            let bytes = Bytes::copy_from_slice(&chunk[..count]);
            if to_port.send(Frame::new(Kind::Data, stream, bytes)).await.is_err() {
                break;
            }
        }
        let _ = to_port.send(Frame::new(Kind::Close, stream, Bytes::new())).await;
        let _ = done.send(stream);
    });
    let tasks = [input.abort_handle(), output.abort_handle()];
    Open { arrived, credit, tasks }
}

/// Waits for bytes, then reads what is there.
async fn read_some(port: &AsyncFd<OwnedFd>, buffer: &mut Vec<u8>) -> io::Result<()> {
    let before = buffer.len();
    loop {
        let mut ready = port.readable().await?;
        while buffer.len() < before + BATCH_BYTES {
            buffer.reserve(READ_BYTES);
            match rustix::io::read(port.get_ref(), spare_capacity(buffer)) {
                Ok(1..) => {}
                // Zero: nobody is at the host's end at the moment.
                Ok(0) | Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if buffer.len() > before {
            return Ok(());
        }
    }
}

async fn write_frames(
    port: Arc<AsyncFd<OwnedFd>>,
    mut waiting: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    while let Some(frame) = waiting.recv().await {
        let bytes = frame.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut ready = port.writable().await?;
            match rustix::io::write(port.get_ref(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_arrive() {
        let sent = [
            Frame::new(Kind::Open, 7, Bytes::new()),
            Frame::new(Kind::Data, 7, &b"hello"[..]),
            Frame::new(Kind::Credit, 7, vec![0, 0, 1, 0]),
            Frame::new(Kind::Close, 7, Bytes::new()),
        ];
        let mut buffer = Arrived::default();
        let mut seen = Vec::new();
        for byte in sent.iter().flat_map(Frame::encode) {
            buffer.bytes.push(byte);
            seen.extend(buffer.next_frame().unwrap());
        }
        assert_eq!(seen, sent);
        assert_eq!(buffer.next_frame().unwrap(), None);
        assert!(buffer.bytes.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bytes in [[9, 0, 0, 0, 1, 0, 0, 0, 0], [2, 0, 0, 0, 1, 0xff, 0, 0, 0]] {
            let mut buffer = Arrived { bytes: bytes.to_vec(), taken: 0 };
            assert!(buffer.next_frame().is_err());
        }
    }
}
