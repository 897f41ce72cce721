//! The bytes of a session: between the client's channel and the program's streams.

use crate::agent::{Agent, Running, Start};
use crate::server::INPUT_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use russh::ChannelWriteHalf;
use russh::server::{Handle, Msg};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

const CHUNK_BYTES: usize = 32 * 1024;
/// The exit status that stands for "the streams broke", beyond any program's own.
const LOST: u32 = 0x1_0000;

/// What the client is to be told through its control channel: how much of which input was taken.
#[derive(Clone, Default)]
pub struct Orders(Arc<(Mutex<(HashedAmounts, bool)>, Notify)>);

type HashedAmounts = std::collections::BTreeMap<u32, u32>;

impl Orders {
    fn note(&self, channel: u32, bytes: usize) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state.0.entry(channel).or_default() += bytes as u32;
        self.0.1.notify_one();
    }

    /// Nobody is left to be told.
    pub fn close(&self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.1.notify_one();
    }

    /// The next message; None at the end.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.1 {
                    return None;
                }
                if !state.0.is_empty() {
                    let mut message = BytesMut::new();
                    for (channel, bytes) in std::mem::take(&mut state.0) {
                        message.put_u32(channel);
                        message.put_u32(bytes);
                    }
                    return Some(message.freeze());
                }
            }
            self.0.1.notified().await;
        }
    }
}

/// Tells the client of its credit until the connection ends.
pub async fn tell_credit(orders: Orders, output: Output) {
    while let Some(message) = orders.next().await {
        if output.0.data_bytes(message).await.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct InputState {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    has_ended: bool,
    signals: VecDeque<i32>,
    size: Option<(u16, u16)>,
}

/// What comes from the client for one channel: input, signals, the window's size.
#[derive(Clone)]
pub struct Input {
    channel: u32,
    orders: Orders,
    state: Arc<(Mutex<InputState>, Notify, Notify)>,
    closed: Arc<watch::Sender<bool>>,
}

impl Input {
    /// Nothing yet.
    pub fn new(channel: u32, orders: Orders) -> Input {
        Input {
            channel,
            orders,
            state: Arc::default(),
            closed: Arc::new(watch::Sender::new(false)),
        }
    }

    fn state(&self) -> MutexGuard<'_, InputState> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More input; an error if the client sends more than its credit.
    pub fn push(&self, bytes: Bytes) -> Result<(), ()> {
        let mut state = self.state();
        state.waiting_bytes += bytes.len();
        if state.waiting_bytes > INPUT_BYTES {
            return Err(());
        }
        state.waiting.push_back(bytes);
        self.state.1.notify_one();
        Ok(())
    }

    /// The input is complete.
    pub fn end(&self) {
        self.state().has_ended = true;
        self.state.1.notify_one();
    }

    /// The client wants no more of this channel.
    pub fn close(&self) {
        self.end();
        self.closed.send_replace(true);
    }

    /// A signal for the program.
    pub fn signal(&self, number: i32) {
        self.state().signals.push_back(number);
        self.state.2.notify_one();
    }

    /// The client's window has a new size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.state().size = Some((rows, columns));
        self.state.2.notify_one();
    }

    /// Waits for more input; None at its end.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.state();
                if let Some(bytes) = state.waiting.pop_front() {
                    return Some(bytes);
                }
                if state.has_ended {
                    return None;
                }
            }
            self.state.1.notified().await;
        }
    }

    /// So much was taken by the program.
    fn taken(&self, bytes: usize) {
        self.state().waiting_bytes -= bytes;
        self.orders.note(self.channel, bytes);
    }

    async fn until_closed(&self) {
        // The sender lives as long as this object.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

/// The way to the client of one channel.
pub struct Output(ChannelWriteHalf<Msg>);

impl Output {
    /// For a fresh channel.
    pub fn new(writer: ChannelWriteHalf<Msg>) -> Output {
        Output(writer)
    }

    /// Standard output, or standard error.
    async fn send(&self, is_error: bool, bytes: Bytes) -> Result<(), russh::Error> {
        if is_error {
            self.0.extended_data_bytes(1, bytes).await
        } else {
            self.0.data_bytes(bytes).await
        }
    }

    async fn finish(&self, status: u32) {
        // A client that has gone needs no status.
        let _ = self.0.exit_status(status).await;
        let _ = self.0.eof().await;
        let _ = self.0.close().await;
    }
}

/// Runs a program for a client, to the end of either.
///
/// The request is answered when the program runs; where it could not be started, the reason is sent
/// as its error output before the refusal.
pub async fn run(agent: Agent, start: Start, input: Input, output: Output, handle: Handle) {
    let channel = output.0.id();
    let mut running = tokio::select! {
        result = agent.start(&start) => match result {
            Ok(running) => running,
            Err(reason) => {
                let _ = output.send(true, Bytes::from(reason.into_bytes())).await;
                let _ = handle.channel_failure(channel).await;
                return;
            }
        },
        () = input.until_closed() => return,
    };
    if handle.channel_success(channel).await.is_err() {
        return;
    }
    let descriptors = std::mem::take(&mut running.descriptors);
    let Some(ended) = running.ended.take() else { return };
    let result = tokio::select! {
        result = relay(&running, ended, descriptors, &input, &output) => result,
        // Dropping the session hangs up.
        () = input.until_closed() => return,
    };
    match result {
        Ok(status) => output.finish(status).await,
        Err(error) => {
            let _ = output.send(true, Bytes::from(error.to_string().into_bytes())).await;
            output.finish(LOST).await;
        }
    }
}

async fn relay(
    running: &Running,
    ended: tokio::sync::oneshot::Receiver<u32>,
    descriptors: Vec<OwnedFd>,
    input: &Input,
    output: &Output,
) -> io::Result<u32> {
    let is_terminal = descriptors.len() == 1;
    let mut streams = Vec::new();
    for descriptor in descriptors {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        streams.push(Arc::new(crate::watched::watch(descriptor)?));
    }
    let mut streams = streams.into_iter();
    let (feed, drain, error_drain) = match (streams.next(), streams.next(), streams.next()) {
        (Some(master), None, None) => (Arc::clone(&master), master, None),
        (Some(feed), Some(drain), error_drain) => (feed, drain, error_drain),
        _ => return Err(io::Error::other("the agent gave no streams")),
    };
    let (over, status) = (watch::Sender::new(false), Mutex::new(0));
    let wait = async {
        let code = ended.await.unwrap_or(128 + 9);
        *status.lock().unwrap_or_else(PoisonError::into_inner) = code;
        over.send_replace(true);
    };
    let master = is_terminal.then(|| Arc::clone(&feed));
    let inward = async {
        tokio::select! {
            () = feed_input(input, feed, is_terminal) => {}
            () = until(over.subscribe()) => {}
        }
    };
    let orders = async {
        tokio::select! {
            () = obey(running, input, master) => {}
            () = until(over.subscribe()) => {}
        }
    };
    let errors = async {
        if let Some(drain) = &error_drain {
            drain_output(drain, true, output, over.subscribe()).await;
        }
    };
    let outputs = drain_output(&drain, false, output, over.subscribe());
    tokio::join!(wait, inward, orders, outputs, errors);
    Ok(*status.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn until(mut over: watch::Receiver<bool>) {
    let _ = over.wait_for(|over| *over).await;
}

/// Signals and sizes, as they come.
async fn obey(running: &Running, input: &Input, master: Option<Arc<AsyncFd<OwnedFd>>>) {
    loop {
        let (signal, size) = {
            let mut state = input.state();
            (state.signals.pop_front(), state.size.take())
        };
        if let (Some((rows, columns)), Some(master)) = (size, &master) {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal that has just gone has no size.
            let _ = tcsetwinsize(master.get_ref(), size);
        }
        match signal {
            Some(number) => {
                let _ = running.signal(number).await;
            }
            None => input.state.2.notified().await,
        }
    }
}

/// Hands input to the program; closes its pipe at the end, as a shell would.
async fn feed_input(input: &Input, feed: Arc<AsyncFd<OwnedFd>>, is_terminal: bool) {
    let mut is_broken = false;
    while let Some(bytes) = input.next().await {
        if !is_broken {
            is_broken = write_all(&feed, &bytes).await.is_err();
        }
        // What a program does not want is taken all the same.
        input.taken(bytes.len());
    }
    if is_terminal {
        // There is no end of a terminal's input; what stands for it is a key.
        let _ = write_all(&feed, &[4]).await;
        std::future::pending::<()>().await;
    }
}

async fn write_all(feed: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = feed.writable().await?;
        match rustix::io::write(feed.get_ref(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Everything the program writes, and after its end what is left in the pipe: another process may
/// hold that open for ever.
async fn drain_output(
    drain: &AsyncFd<OwnedFd>,
    is_error: bool,
    output: &Output,
    mut over: watch::Receiver<bool>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match rustix::io::read(drain.get_ref(), &mut chunk) {
            Ok(count @ 1..) => {
                let bytes = Bytes::copy_from_slice(&chunk[..count]);
                if output.send(is_error, bytes).await.is_err() {
                    return;
                }
            }
            Err(Errno::AGAIN) if *over.borrow() => return,
            Err(Errno::AGAIN) => {
                tokio::select! {
                    ready = drain.readable() => match ready {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => return,
                    },
                    _ = over.wait_for(|over| *over) => {}
                }
            }
            Err(Errno::INTR) => {}
            // A terminal's master reports the end of the last process as an error.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Relays a connection to a port of the guest.
pub async fn forward(stream: TcpStream, input: Input, output: Output) {
    let (mut reader, mut writer) = stream.into_split();
    let inward = async {
        while let Some(bytes) = input.next().await {
            let result = writer.write_all(&bytes).await;
            input.taken(bytes.len());
            if result.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            let bytes = Bytes::copy_from_slice(&chunk[..count]);
            if output.0.data_bytes(bytes).await.is_err() {
                return;
            }
        }
        let _ = output.0.eof().await;
    };
    tokio::select! {
        _ = async { tokio::join!(inward, outward) } => {}
        () = input.until_closed() => {}
    }
    let _ = output.0.close().await;
}
