//! An app's standard streams while it runs: pipes or a pseudo-terminal on its side, ports or log
//! records on the host's.

use crate::failure::{Kind, Outcome, While};
use crate::lines::{self, LineCutter, Origin};
use crate::log_port::LogPort;
use crate::poll::{Poll, Token};
use crate::port::Port;
use crate::protocol::spec::{AppSpec, StreamMode};
use crate::relay::{Relay, Turn};
use crate::sandbox::Sandbox;
use crate::sys::{self, Clock};
use crate::{ports, terminal};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};

/// How long a stdin port may be without a host before that counts as the end of the input: the host
/// connects before it sends `pod.start`, but its connection may reach the guest later.
const PATIENCE_NS: u64 = 2_000_000_000;
const LOG_CHUNK_BYTES: usize = 16 * 1024;
const LOG_CHUNKS_PER_TURN: usize = 8;

/// The three standard streams.
const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];
/// The number of the terminal's port, after those of the streams.
const TERMINAL_PORT: u8 = 3;

/// The ports of an app, open from `app.add` to `app.remove`.
#[derive(Debug)]
pub struct AppPorts {
    streams: [Option<Rc<Port>>; 3],
    terminal: Option<Rc<Port>>,
}

impl AppPorts {
    /// Opens the ports that the modes ask for, for the app with that number.
    pub fn open(spec: &AppSpec, poll: &Poll, app: u32) -> Outcome<AppPorts> {
        let open = |stream: &str, number: u8| {
            let port = ports::wait_and_open(&format!("app.{}.{stream}", spec.name))?;
            poll.watch(&port, Token::AppPort(app, number))?;
            Ok(Some(Rc::new(Port::new(port))))
        };
        let mut streams = [None, None, None];
        for (number, mode) in [spec.stdin, spec.stdout, spec.stderr].into_iter().enumerate() {
            if mode == StreamMode::Stream {
                streams[number] = open(STREAMS[number], number as u8)?;
            }
        }
        let terminal = if spec.uses_terminal() { open("tty", TERMINAL_PORT)? } else { None };
        Ok(AppPorts { streams, terminal })
    }

    /// An event of the port with that number has come.
    pub fn note_event(&self, number: u8) {
        let port = match number {
            TERMINAL_PORT => self.terminal.as_ref(),
            number => self.streams.get(usize::from(number)).and_then(Option::as_ref),
        };
        if let Some(port) = port {
            port.note_event();
        }
    }
}

#[derive(Debug)]
enum Flow {
    /// Host to app.
    Input { port: Rc<Port>, pipe: Option<OwnedFd>, relay: Relay, patient_until_ns: u64 },
    /// App to host.
    Output { pipe: OwnedFd, port: Rc<Port>, relay: Relay, done: bool },
    /// App to log.
    Log { pipe: OwnedFd, stream: &'static str, cutter: LineCutter, done: bool },
    /// Both ways through a terminal.
    Terminal { master: Rc<OwnedFd>, port: Rc<Port>, input: Relay, output: Relay, done: bool },
}

/// The streams of one run of an app.
#[derive(Debug)]
pub struct Channels {
    flows: Vec<Flow>,
    ends: Vec<OwnedFd>,
    stdio: [usize; 3],
    terminal: Option<Rc<OwnedFd>>,
    terminal_end: Option<usize>,
}

impl Channels {
    /// Makes pipes and terminal for a run.
    pub fn open(
        spec: &AppSpec,
        app_ports: &AppPorts,
        sandbox: &Sandbox,
        poll: &Poll,
        token: Token,
    ) -> Outcome<Channels> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null =
            open("/dev/null", flags, Mode::empty()).trying(Kind::Internal, "open /dev/null")?;
        let mut channels = Channels {
            flows: Vec::new(),
            ends: alloc::vec![null],
            stdio: [0; 3],
            terminal: None,
            terminal_end: None,
        };
        if let Some(port) = &app_ports.terminal {
            channels.open_terminal(spec, port, sandbox, poll, token)?;
        }
        for (index, mode) in [spec.stdin, spec.stdout, spec.stderr].into_iter().enumerate() {
            let port = app_ports.streams[index].as_ref();
            channels.stdio[index] = match (mode, port) {
                (StreamMode::Tty, _) => channels.terminal_end.unwrap_or(0),
                (StreamMode::Log, _) => channels.open_log(STREAMS[index], poll, token)?,
                (StreamMode::Stream, Some(port)) => {
                    channels.open_stream(index == 0, port, poll, token)?
                }
                (StreamMode::Stream | StreamMode::Null, _) => 0,
            };
        }
        Ok(channels)
    }

    fn open_terminal(
        &mut self,
        spec: &AppSpec,
        port: &Rc<Port>,
        sandbox: &Sandbox,
        poll: &Poll,
        token: Token,
    ) -> Outcome<()> {
        let (master, slave) = terminal::open_pair(sandbox)?;
        if let Some(size) = &spec.terminal {
            terminal::resize(&*master, size.rows, size.columns)?;
        }
        poll.watch(&*master, token)?;
        self.terminal = Some(Rc::clone(&master));
        self.flows.push(Flow::Terminal {
            master,
            port: Rc::clone(port),
            input: Relay::default(),
            output: Relay::default(),
            done: false,
        });
        self.terminal_end = Some(self.ends.len());
        self.ends.push(slave);
        Ok(())
    }

    fn open_log(&mut self, stream: &'static str, poll: &Poll, token: Token) -> Outcome<usize> {
        let (reader, writer) = app_pipe()?;
        set_nonblocking(&reader)?;
        poll.watch(&reader, token)?;
        let cutter = LineCutter::default();
        self.flows.push(Flow::Log { pipe: reader, stream, cutter, done: false });
        self.ends.push(writer);
        Ok(self.ends.len() - 1)
    }

    fn open_stream(
        &mut self,
        is_input: bool,
        port: &Rc<Port>,
        poll: &Poll,
        token: Token,
    ) -> Outcome<usize> {
        let (reader, writer) = app_pipe()?;
        let (ours, theirs) = if is_input { (writer, reader) } else { (reader, writer) };
        set_nonblocking(&ours)?;
        poll.watch(&ours, token)?;
        let (port, relay) = (Rc::clone(port), Relay::default());
        self.flows.push(if is_input {
            let patient_until_ns = sys::clock_ns(Clock::Boot) + PATIENCE_NS;
            Flow::Input { port, pipe: Some(ours), relay, patient_until_ns }
        } else {
            Flow::Output { pipe: ours, port, relay, done: false }
        });
        self.ends.push(theirs);
        Ok(self.ends.len() - 1)
    }

    /// Standard input, output and error for a process of the app. The app's ends stay open in the
    /// agent during the run, since its handlers use them too.
    pub fn stdio(&self) -> [BorrowedFd<'_>; 3] {
        self.stdio.map(|index| self.ends[index].as_fd())
    }

    /// As [`Channels::stdio`] with an empty input, for handlers.
    pub fn handler_stdio(&self) -> [BorrowedFd<'_>; 3] {
        let [_, output, error] = self.stdio();
        [self.ends[0].as_fd(), output, error]
    }

    /// The app's side of the terminal.
    pub fn terminal_end(&self) -> Option<BorrowedFd<'_>> {
        self.terminal_end.and_then(|index| self.ends.get(index)).map(AsFd::as_fd)
    }

    /// The agent's side of the terminal.
    pub fn terminal(&self) -> Option<&Rc<OwnedFd>> {
        self.terminal.as_ref()
    }

    /// Moves what can be moved; true if there is more to do right away.
    pub fn turn(&mut self, app: &str, pid: i32, log: &mut LogPort) -> bool {
        let mut more = false;
        for flow in &mut self.flows {
            more |= flow.turn(app, pid, log);
        }
        more
    }

    /// When [`Channels::turn`] is due though nothing happened.
    pub fn deadline_ns(&self) -> Option<u64> {
        let now_ns = sys::clock_ns(Clock::Boot);
        self.flows.iter().find_map(|flow| match flow {
            Flow::Input { pipe: Some(_), patient_until_ns, .. } => {
                Some(*patient_until_ns).filter(|until| *until > now_ns)
            }
            _ => None,
        })
    }

    /// Closes the app's ends: once its processes are gone, the outputs end.
    pub fn close_ends(&mut self) {
        self.ends.clear();
        self.terminal_end = None;
        self.flows.retain(|flow| !matches!(flow, Flow::Input { .. }));
    }

    /// Whether all output was read and taken over by a port or the log.
    pub fn is_drained(&self) -> bool {
        self.flows.iter().all(Flow::is_drained)
    }

    /// Whether output is held up by the host, which may take its time.
    pub fn waits_for_host(&self, log: &LogPort) -> bool {
        self.flows.iter().any(|flow| flow.waits_for_host(log))
    }

    /// Writes out what is left of unfinished lines.
    pub fn finish(&mut self, app: &str, pid: i32, log: &mut LogPort) {
        for flow in &mut self.flows {
            if let Flow::Log { stream, cutter, .. } = flow {
                let origin = origin(app, pid, stream);
                cutter.finish(|piece, partial| log.append(&lines::record(&origin, piece, partial)));
            }
        }
    }
}

impl Flow {
    fn turn(&mut self, app: &str, pid: i32, log: &mut LogPort) -> bool {
        match self {
            Flow::Input { port, pipe, relay, patient_until_ns } => {
                let Some(sink) = pipe else { return false };
                match relay.turn(&**port, sink) {
                    Turn::More => return true,
                    Turn::Done if sys::clock_ns(Clock::Boot) < *patient_until_ns => relay.reopen(),
                    Turn::Done => *pipe = None,
                    Turn::Waiting => {}
                }
                false
            }
            Flow::Output { pipe, port, relay, done } => {
                let turn = relay.turn(&*pipe, &**port);
                *done = turn == Turn::Done;
                turn == Turn::More
            }
            Flow::Terminal { master, port, input, output, done } => {
                let incoming = input.turn(&**port, &**master);
                // A host that went away may come back to a terminal.
                input.reopen();
                let outgoing = output.turn(&**master, &**port);
                *done = outgoing == Turn::Done;
                incoming == Turn::More || outgoing == Turn::More
            }
            Flow::Log { pipe, stream, cutter, done } => {
                turn_log(pipe, &origin(app, pid, stream), cutter, done, log)
            }
        }
    }

    fn is_drained(&self) -> bool {
        match self {
            Flow::Input { .. } => true,
            Flow::Log { done, .. } => *done,
            Flow::Output { done, port, .. } | Flow::Terminal { done, port, .. } => {
                (*done && port.has_delivered()) || ports::is_disconnected(&**port)
            }
        }
    }

    fn waits_for_host(&self, log: &LogPort) -> bool {
        match self {
            Flow::Input { .. } => false,
            Flow::Log { done, .. } => !*done && !log.has_room(),
            Flow::Output { port, relay: output, .. } | Flow::Terminal { port, output, .. } => {
                (output.waits_for_sink() || !port.has_delivered())
                    && !ports::is_disconnected(&**port)
            }
        }
    }
}

fn turn_log(
    pipe: &OwnedFd,
    origin: &Origin<'_>,
    cutter: &mut LineCutter,
    done: &mut bool,
    log: &mut LogPort,
) -> bool {
    let mut chunk = [0_u8; LOG_CHUNK_BYTES];
    for _ in 0..LOG_CHUNKS_PER_TURN {
        if *done || !log.has_room() {
            return false;
        }
        match io::read(pipe, &mut chunk) {
            Ok(0) => *done = true,
            Ok(count) => cutter.push(&chunk[..count], |piece, partial| {
                log.append(&lines::record(origin, piece, partial));
            }),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => *done = true,
        }
    }
    true
}

fn origin<'a>(app: &'a str, pid: i32, stream: &'a str) -> Origin<'a> {
    let (time_ns, uptime_ns) = (sys::clock_ns(Clock::Real), sys::clock_ns(Clock::Boot));
    Origin { time_ns, uptime_ns, app, pid, stream }
}

fn app_pipe() -> Outcome<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).trying(Kind::Internal, "make a pipe")
}

/// Only the agent's end: the app's end has a description of its own and stays blocking.
fn set_nonblocking(end: &OwnedFd) -> Outcome<()> {
    rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).trying(Kind::Internal, "set up a pipe")
}
