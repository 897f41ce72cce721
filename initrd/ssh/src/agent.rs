//! The socket to the agent: datagrams of JSON, with descriptors along.

use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Longest message that the agent takes.
const MESSAGE_BYTES_MAX: usize = 160 * 1024;

/// The server's own key, and the one it lets in; both as OpenSSH writes them.
#[derive(Deserialize)]
pub struct Keys {
    /// A private key.
    pub host_key: String,
    /// A public key.
    pub client_key: String,
}

/// What a session is to run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The app's name.
    pub app: String,
    /// Program and arguments; for a copy, the arguments of this very program.
    pub argv: Vec<String>,
    /// Whether files are copied.
    #[serde(default)]
    pub is_copy: bool,
    /// In place of the app's user.
    #[serde(default)]
    pub user: Option<String>,
    /// In place of the app's group.
    #[serde(default)]
    pub group: Option<String>,
    /// In place of the app's working directory.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// More variables.
    #[serde(default)]
    pub environment: Vec<String>,
    /// The terminal to run on.
    #[serde(default)]
    pub terminal: Option<Terminal>,
}

/// A terminal's size, and the value of TERM.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Terminal {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// For instance `xterm`.
    pub name: Option<String>,
}

#[derive(Serialize)]
struct Request<'a> {
    session: u32,
    #[serde(flatten)]
    action: Action<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Action<'a> {
    Start(&'a Start),
    Signal(i32),
    HangUp {},
}

#[derive(Deserialize)]
struct Note {
    session: u32,
    #[serde(flatten)]
    what: What,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Started {},
    Failed(String),
    Ended(End),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    Code(u32),
    Signal(u32),
}

/// What waits for the agent's word on a session.
struct Waiting {
    started: Option<oneshot::Sender<Result<Vec<OwnedFd>, String>>>,
    ended: Option<oneshot::Sender<u32>>,
}

#[derive(Default)]
struct Sessions {
    last: u32,
    waiting: HashMap<u32, Waiting>,
}

struct Inner {
    socket: AsyncFd<OwnedFd>,
    sessions: Mutex<Sessions>,
}

/// The agent, as all clients share it.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

/// A session that runs. Dropping it hangs up.
pub struct Running {
    agent: Agent,
    number: u32,
    /// The terminal's master, or feed of input and drains of output and error.
    pub descriptors: Vec<OwnedFd>,
    /// How it ended, as a shell has it: a code, or 128 and a signal's number.
    pub ended: Option<oneshot::Receiver<u32>>,
}

impl Running {
    /// Sends it a signal.
    pub async fn signal(&self, number: i32) -> io::Result<()> {
        self.agent.send(self.number, Action::Signal(number)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.agent.hang_up(self.number);
    }
}

impl Agent {
    fn hang_up(&self, session: u32) {
        let agent = self.clone();
        tokio::spawn(async move {
            // An agent that is gone has taken the session along.
            let _ = agent.send(session, Action::HangUp {}).await;
        });
    }

    /// Takes the socket over, and the keys that come through it first.
    pub async fn connect(socket: OwnedFd) -> io::Result<(Agent, Keys)> {
        let socket = crate::watched::watch(socket)?;
        let (bytes, _) = receive(&socket).await?;
        let keys = serde_json::from_slice(&bytes)?;
        let agent = Agent(Arc::new(Inner { socket, sessions: Mutex::default() }));
        tokio::spawn(agent.clone().listen());
        Ok((agent, keys))
    }

    /// Has the agent start a program; the error is the sentence for the person.
    pub async fn start(&self, start: &Start) -> Result<Running, String> {
        let (started, word) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let number = {
            let mut sessions = self.sessions();
            sessions.last = sessions.last.wrapping_add(1);
            let waiting = Waiting { started: Some(started), ended: Some(ended) };
            let number = sessions.last;
            sessions.waiting.insert(number, waiting);
            number
        };
        if let Err(error) = self.send(number, Action::Start(start)).await {
            self.sessions().waiting.remove(&number);
            return Err(format!("the session cannot be asked for: {error}"));
        }
        let descriptors = word.await.map_err(|_| String::from("the agent is gone"))??;
        Ok(Running { agent: self.clone(), number, descriptors, ended: Some(end) })
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, session: u32, action: Action<'_>) -> io::Result<()> {
        let bytes = serde_json::to_vec(&Request { session, action })?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            let words = format!("its arguments are longer than {MESSAGE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        loop {
            let mut ready = self.0.socket.writable().await?;
            match send(self.0.socket.get_ref(), &bytes, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn listen(self) {
        while let Ok((bytes, descriptors)) = receive(&self.0.socket).await {
            if let Ok(note) = serde_json::from_slice(&bytes) {
                self.take(note, descriptors);
            }
        }
        // Whoever waits learns it.
        self.sessions().waiting.clear();
    }

    fn take(&self, note: Note, descriptors: Vec<OwnedFd>) {
        let mut sessions = self.sessions();
        let Some(waiting) = sessions.waiting.get_mut(&note.session) else { return };
        match note.what {
            What::Started {} => {
                let is_wanted = waiting
                    .started
                    .take()
                    .is_some_and(|started| started.send(Ok(descriptors)).is_ok());
                if !is_wanted {
                    // The client has gone meanwhile.
                    self.hang_up(note.session);
                }
            }
            What::Failed(reason) => {
                if let Some(started) = waiting.started.take() {
                    let _ = started.send(Err(reason));
                }
                sessions.waiting.remove(&note.session);
            }
            What::Ended(end) => {
                let status = match end {
                    End::Code(code) => code,
                    End::Signal(signal) => 128 + signal,
                };
                if let Some(ended) = waiting.ended.take() {
                    let _ = ended.send(status);
                }
                sessions.waiting.remove(&note.session);
            }
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let mut ready = socket.readable().await?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket.get_ref(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(message) => {
                let mut descriptors = Vec::new();
                for piece in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(more) = piece {
                        descriptors.extend(more);
                    }
                }
                let count = message.bytes;
                bytes.truncate(count);
                return Ok((bytes, descriptors));
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
