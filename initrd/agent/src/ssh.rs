//! The SSH server: a program of its own, handed over by the host and started when a person first
//! reaches into the pod. The agent has no part in SSH; it starts the sessions the server asks for.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::pod::Pod;
use crate::poll::{Poll, Token};
use crate::privileges::Privileges;
use crate::protocol::message::{self, Empty, RequestId};
use crate::sessions::{self, Sessions};
use crate::sys::{self, Child, Forked};
use crate::users::Identity;
use crate::{files, ports};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::null;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::{self, Errno};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::stdio::{dup2_stdin, dup2_stdout};
use serde::{Deserialize, Serialize};

/// Where the host's clients arrive.
pub const PORT: &str = "kvmrkt.ssh";
/// Largest program that is taken.
const PROGRAM_BYTES_MAX: u64 = 32 << 20;
const CHUNK_BYTES: usize = 32 * 1024;
/// The server's user: nobody's, without any privilege.
const SERVER_ID: u32 = 0x7fff_fff0;
/// The server's descriptors: the port, and the socket to the agent.
const SERVER_PORT: i32 = 3;
const SERVER_SOCKET: i32 = 4;
/// The C library copies long areas with an instruction that an emulated processor executes byte by
/// byte: measured, 140 MB/s instead of 1.6 GB/s.
const ENVIRONMENT: &core::ffi::CStr =
    c"GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1000000000:\
glibc.cpu.x86_rep_stosb_threshold=1000000000";
/// Where descriptors are out of the way of those.
const ASIDE: i32 = 10;

/// Parameters of `ssh.start`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// How many bytes of the port are the program.
    pub program_bytes: u64,
    /// What the server shows: an OpenSSH private key.
    pub host_key: String,
    /// What it lets in: an OpenSSH public key.
    pub client_key: String,
}

/// The server's first message.
#[derive(Serialize)]
struct Keys<'a> {
    host_key: &'a str,
    client_key: &'a str,
}

/// The server, from the order to have one to the end of the pod.
#[derive(Debug)]
pub struct Ssh {
    port: OwnedFd,
    program: OwnedFd,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The program arrives through the port.
    Arriving { left_bytes: u64, start: Start, request: RequestId },
    /// It runs.
    Running { server: Child, sessions: Sessions },
    /// It has ended; there is no second one.
    Ended,
}

impl Ssh {
    /// Gets ready for the program.
    pub fn prepare(start: Start, request: RequestId, poll: &Poll) -> Outcome<Ssh> {
        if start.program_bytes == 0 || start.program_bytes > PROGRAM_BYTES_MAX {
            let message = format!("an SSH server of {} bytes is refused", start.program_bytes);
            return Err(Failure::new(Kind::InvalidSpec, message));
        }
        let port = ports::wait_and_open(PORT)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let program = memfd_create("kvmrkt-ssh", flags)
            .trying(Kind::Internal, "make room for the SSH server")?;
        poll.watch(&port, Token::Ssh)?;
        let left_bytes = start.program_bytes;
        Ok(Ssh { port, program, state: State::Arriving { left_bytes, start, request } })
    }

    /// Works on what is ready; gives the line that the host is to be told, if any.
    pub fn turn(&mut self, pod: &mut Pod, poll: &Poll) -> Outcome<Option<Vec<u8>>> {
        match &mut self.state {
            State::Arriving { left_bytes, start, request } => {
                receive(&self.port, &self.program, left_bytes)?;
                if *left_bytes > 0 {
                    return Ok(None);
                }
                let (start, request) = (start.clone(), request.clone());
                // The server's from now on; it holds the same open file.
                poll.forget(&self.port)?;
                self.state = State::Ended;
                match self.run(&start, poll) {
                    Ok(()) => Ok(Some(message::reply(&request, &Empty {}))),
                    Err(failure) => Ok(Some(message::failure(&request, &failure, None))),
                }
            }
            State::Running { server, sessions } => {
                if has_ended(server) {
                    sessions.hang_up_all();
                    self.state = State::Ended;
                    return Ok(Some(message::notice("ssh.ended", &Empty {})));
                }
                sessions.turn(pod, poll);
                Ok(None)
            }
            State::Ended => Ok(None),
        }
    }

    /// Ends the sessions of an app that is to be removed.
    pub fn end_sessions_of(&mut self, app: u32) {
        if let State::Running { sessions, .. } = &mut self.state {
            sessions.end_app(app);
        }
    }

    fn run(&mut self, start: &Start, poll: &Poll) -> Outcome<()> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&self.program, seals).trying(Kind::Internal, "seal the SSH server")?;
        let (ours, theirs) = sessions::socket_pair()?;
        let forked = sys::fork(0, None).trying(Kind::Internal, "make the SSH server's process")?;
        match forked {
            Forked::Child => {
                let failure = self.become_server(&theirs);
                sys::console(format_args!("kvmrkt-agent: {}\n", failure.message));
                sys::exit(126)
            }
            Forked::Parent(server) => {
                drop(theirs);
                poll.watch(&server.pidfd, Token::Ssh)?;
                poll.watch(&ours, Token::Ssh)?;
                let program =
                    self.program.try_clone().trying(Kind::Internal, "keep the SSH server")?;
                let mut sessions = Sessions::new(ours, program);
                let keys = Keys { host_key: &start.host_key, client_key: &start.client_key };
                sessions.send(&keys, Vec::new());
                self.state = State::Running { server, sessions };
                Ok(())
            }
        }
    }

    /// In the child: gives up everything but the two descriptors, and becomes the server.
    fn become_server(&self, socket: &OwnedFd) -> Failure {
        let attempt = || -> Outcome<Errno> {
            // Of all processes it is the last that a guest short of memory should lose: through it
            // a person looks for the cause.
            files::write("/proc/self/oom_score_adj", b"-900")
                .trying(Kind::Internal, "set the SSH server's oom_score_adj")?;
            let program = self
                .place_descriptors(socket)
                .trying(Kind::Internal, "place the SSH server's descriptors")?;
            let identity = Identity { uid: SERVER_ID, gid: SERVER_ID, account: None };
            Privileges::none(&identity).keep_only()?;
            let name = c"kvmrkt-ssh".as_ptr().cast();
            let environment = [ENVIRONMENT.as_ptr().cast(), null()];
            Ok(sys::execute_descriptor(&program, &[name, null()], &environment))
        };
        match attempt() {
            Ok(errno) => {
                let message = format!("the SSH server: {}", crate::errno::describe(errno));
                Failure::new(Kind::ExecFailed, message)
            }
            Err(failure) => failure,
        }
    }

    /// Gives the program, out of the way.
    fn place_descriptors(&self, socket: &OwnedFd) -> io::Result<OwnedFd> {
        // Any of them may stand in another's place.
        let aside = |descriptor: &OwnedFd| io::fcntl_dupfd_cloexec(descriptor, ASIDE);
        let (port, socket, program) = (aside(&self.port)?, aside(socket)?, aside(&self.program)?);
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        sys::place(&port, SERVER_PORT)?;
        sys::place(&socket, SERVER_SOCKET)?;
        Ok(program)
    }
}

fn has_ended(server: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::PidFd(server.pidfd.as_fd()), options), Ok(Some(_)))
}

/// Moves what has arrived from the port to the program's file.
fn receive(port: &OwnedFd, program: &OwnedFd, left_bytes: &mut u64) -> Outcome<()> {
    let mut chunk = alloc::vec![0_u8; CHUNK_BYTES];
    while *left_bytes > 0 {
        let wanted = (*left_bytes).min(CHUNK_BYTES as u64) as usize;
        match io::read(port, &mut chunk[..wanted]) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).trying(Kind::Internal, "receive the SSH server"),
            Ok(count) => {
                *left_bytes -= count as u64;
                files::write_all(program, &chunk[..count])
                    .trying(Kind::Internal, "store the SSH server")?;
            }
        }
    }
    Ok(())
}
