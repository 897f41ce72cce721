//! Sessions: programs that the SSH server has the agent start inside apps, exactly as the agent
//! starts the apps themselves.
//!
//! Server and agent exchange datagrams of JSON. The server asks for a session under a number of its
//! choice and gets the descriptors of its streams, and later how the session ended.

use crate::environment;
use crate::failure::{Failure, Kind, Outcome, While};
use crate::pod::Pod;
use crate::poll::{Poll, Token};
use crate::process::{Launch, launch};
use crate::protocol::message::End;
use crate::protocol::spec::Terminal;
use crate::sys::Child;
use crate::terminal;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use rustix::cmsg_space;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

/// Longest message of the server's: a socket's buffer takes it at once.
const MESSAGE_BYTES_MAX: usize = 160 * 1024;
/// Sessions at once: each holds three descriptors and a process.
const SESSIONS_MAX: usize = 128;
/// What the server's own program gets, whatever the app has: it copies files of any owner.
const COPY_CAPABILITIES: [&str; 6] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_DAC_READ_SEARCH",
];

#[derive(Deserialize)]
struct Request {
    session: u32,
    #[serde(flatten)]
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// Start a program.
    Start(Start),
    /// Send a signal; on a terminal to what runs in the foreground.
    Signal(i32),
    /// The client has gone.
    HangUp {},
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    app: String,
    argv: Vec<String>,
    /// The arguments are for the server's own program, which copies files.
    #[serde(default)]
    is_copy: bool,
    user: Option<String>,
    group: Option<String>,
    working_directory: Option<String>,
    #[serde(default)]
    environment: Vec<String>,
    terminal: Option<Terminal>,
}

#[derive(Serialize)]
struct Note<'a> {
    session: u32,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum What<'a> {
    /// It runs; the descriptors of its streams come along.
    Started {},
    /// It could not be started.
    Failed(&'a str),
    /// How it ended.
    Ended(End),
}

#[derive(Debug)]
struct Session {
    number: u32,
    app: u32,
    child: Child,
    master: Option<Rc<OwnedFd>>,
}

/// The sessions, and the socket to the server.
#[derive(Debug)]
pub struct Sessions {
    socket: OwnedFd,
    /// The server's own program.
    program: OwnedFd,
    running: Vec<Session>,
    outgoing: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// The agent's end and the server's.
pub fn socket_pair() -> Outcome<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .trying(Kind::Internal, "make a socket for the SSH server")
}

impl Sessions {
    /// None yet.
    pub fn new(socket: OwnedFd, program: OwnedFd) -> Sessions {
        Sessions { socket, program, running: Vec::new(), outgoing: VecDeque::new() }
    }

    /// Queues a message and sends what the server takes.
    pub fn send(&mut self, message: &impl Serialize, descriptors: Vec<OwnedFd>) {
        // Serializing plain structures to memory cannot fail.
        let bytes = serde_json::to_vec(message).unwrap_or_default();
        self.outgoing.push_back((bytes, descriptors));
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((bytes, descriptors)) = self.outgoing.front() {
            match send_datagram(&self.socket, bytes, descriptors) {
                Err(Errno::AGAIN) => return,
                // A server that is gone is noticed by its process.
                _ => self.outgoing.pop_front(),
            };
        }
    }

    /// Works on what is ready: ends, then requests.
    pub fn turn(&mut self, pod: &mut Pod, poll: &Poll) {
        self.flush();
        self.collect();
        let mut message = alloc::vec![0_u8; MESSAGE_BYTES_MAX];
        while self.outgoing.len() <= SESSIONS_MAX {
            match io::read(&self.socket, &mut message[..]) {
                Ok(0) => return,
                Ok(count) => self.handle(&message[..count], pod, poll),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Reports the sessions that have ended.
    fn collect(&mut self) {
        let mut index = 0;
        while let Some(session) = self.running.get(index) {
            match ended(&session.child, WaitIdOptions::NOHANG) {
                Some(end) => {
                    let session = self.running.swap_remove(index);
                    self.send(
                        &Note { session: session.number, what: What::Ended(end) },
                        Vec::new(),
                    );
                }
                None => index += 1,
            }
        }
    }

    fn handle(&mut self, message: &[u8], pod: &mut Pod, poll: &Poll) {
        // The server is ours; what it says wrong has nobody to be told.
        let Ok(Request { session: number, action }) = serde_json::from_slice(message) else {
            return;
        };
        let running = self.running.iter_mut().find(|session| session.number == number);
        match (action, running) {
            (Action::Start(start), None) => match self.start(number, &start, pod, poll) {
                Ok(descriptors) => {
                    self.send(&Note { session: number, what: What::Started {} }, descriptors);
                }
                Err(failure) => {
                    let what = What::Failed(&failure.message);
                    self.send(&Note { session: number, what }, Vec::new());
                }
            },
            (Action::Signal(signal), Some(session)) => session.signal(signal),
            (Action::HangUp {}, Some(session)) => session.hang_up(),
            // It has ended meanwhile, or is there already.
            _ => {}
        }
    }

    fn start(
        &mut self,
        number: u32,
        start: &Start,
        pod: &mut Pod,
        poll: &Poll,
    ) -> Outcome<Vec<OwnedFd>> {
        if self.running.len() >= SESSIONS_MAX {
            let message = format!("the pod has {SESSIONS_MAX} sessions, and takes no more");
            return Err(Failure::new(Kind::WrongState, message));
        }
        let app = pod.app(&start.app)?;
        if app.pid().is_none() {
            let message = format!("app {} is not running", start.app);
            return Err(Failure::new(Kind::WrongState, message));
        }
        let mut spec = app.spec.clone();
        for (given, own) in [
            (&start.user, &mut spec.user),
            (&start.group, &mut spec.group),
            (&start.working_directory, &mut spec.working_directory),
        ] {
            if let Some(given) = given {
                own.clone_from(given);
            }
        }
        spec.environment = environment::override_with(&spec.environment, &start.environment);
        spec.terminal.clone_from(&start.terminal);
        let mut argv = start.argv.clone();
        if start.is_copy {
            let program = format!("/proc/self/fd/{}", self.program.as_raw_fd());
            argv.insert(0, program);
            spec.user = String::from("0");
            spec.group = String::from("0");
            spec.working_directory = String::from("/");
            spec.supplementary_gids.clear();
            spec.seccomp = None;
            spec.capabilities = COPY_CAPABILITIES.map(String::from).to_vec();
        }
        let streams = match &start.terminal {
            Some(size) => Streams::terminal(app.sandbox(), size)?,
            None => Streams::pipes()?,
        };
        let child = launch(&Launch {
            app: &spec,
            argv: &argv,
            stdio: streams.stdio(),
            terminal: streams.terminal_end(),
            sandbox: app.sandbox(),
            cgroup: app.cgroup(),
        })?;
        poll.watch(&child.pidfd, Token::Ssh)?;
        let master = streams.master.clone();
        self.running.push(Session { number, app: app.id, child, master });
        streams.into_ours()
    }

    /// Kills and collects the sessions of an app.
    pub fn end_app(&mut self, app: u32) {
        for session in self.running.iter().filter(|session| session.app == app) {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&session.child.pidfd, Signal::KILL);
        }
        let mut index = 0;
        while let Some(session) = self.running.get(index) {
            if session.app != app {
                index += 1;
                continue;
            }
            let end = ended(&session.child, WaitIdOptions::empty()).unwrap_or(End::Signal(9));
            let session = self.running.swap_remove(index);
            self.send(&Note { session: session.number, what: What::Ended(end) }, Vec::new());
        }
    }

    /// The server has gone, and all clients with it.
    pub fn hang_up_all(&mut self) {
        self.running.iter_mut().for_each(Session::hang_up);
    }
}

impl Session {
    fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        let foreground =
            self.master.as_ref().and_then(|master| terminal::foreground_group(&**master));
        // The process leads a group of its own; what has ended needs no signal.
        let _ = kill_process_group(foreground.unwrap_or(self.child.pid), signal);
    }

    /// What sshd does to a session whose client goes: its terminal hangs up, its pipes close.
    fn hang_up(&mut self) {
        self.master = None;
        let _ = kill_process_group(self.child.pid, Signal::HUP);
        let _ = kill_process_group(self.child.pid, Signal::CONT);
    }
}

fn ended(child: &Child, wait: WaitIdOptions) -> Option<End> {
    let options = WaitIdOptions::EXITED | wait;
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), options).ok()??;
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    })
}

/// The streams of a session: the program's ends and the server's.
struct Streams {
    theirs: Vec<OwnedFd>,
    ours: Vec<OwnedFd>,
    master: Option<Rc<OwnedFd>>,
}

impl Streams {
    fn pipes() -> Outcome<Streams> {
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).trying(Kind::Internal, "make pipes for a session");
        let (input, input_feed) = pipe()?;
        let (output_drain, output) = pipe()?;
        let (error_drain, error) = pipe()?;
        Ok(Streams {
            theirs: alloc::vec![input, output, error],
            ours: alloc::vec![input_feed, output_drain, error_drain],
            master: None,
        })
    }

    fn terminal(sandbox: &crate::sandbox::Sandbox, size: &Terminal) -> Outcome<Streams> {
        let (master, slave) = terminal::open_pair(sandbox)?;
        terminal::resize(&*master, size.rows, size.columns)?;
        Ok(Streams { theirs: alloc::vec![slave], ours: Vec::new(), master: Some(master) })
    }

    fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        let end = |index: usize| self.theirs[index.min(self.theirs.len() - 1)].as_fd();
        [end(0), end(1), end(2)]
    }

    fn terminal_end(&self) -> Option<BorrowedFd<'_>> {
        self.master.as_ref().map(|_| self.theirs[0].as_fd())
    }

    fn into_ours(self) -> Outcome<Vec<OwnedFd>> {
        match self.master {
            Some(master) => {
                let copy = master.try_clone().trying(Kind::Internal, "hand a terminal over")?;
                Ok(alloc::vec![copy])
            }
            None => Ok(self.ours),
        }
    }
}

fn send_datagram(socket: &OwnedFd, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(|_| ())
}
