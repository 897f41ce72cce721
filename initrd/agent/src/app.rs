//! One app: from prepared over running to ended, step by step as events come.

use crate::cgroup::{Cgroup, Usage};
use crate::channels::{AppPorts, Channels};
use crate::failure::{Failure, Kind, Outcome, While};
use crate::lines::{self, Origin};
use crate::log_port::LogPort;
use crate::poll::{Poll, Token};
use crate::process::{Launch, launch};
use crate::protocol::message::End;
use crate::protocol::spec::AppSpec;
use crate::rootfs::{self, PodFiles};
use crate::sandbox::Sandbox;
use crate::sys::{self, Child, Clock};
use crate::terminal;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::AsFd;
use rustix::process::{
    Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};

/// How long the output of killed processes is waited for, the time the host takes not counted.
const DRAIN_NS: u64 = 3_000_000_000;

/// What the app's steps need of the agent.
#[derive(Debug)]
pub struct Context<'a> {
    /// To watch new processes and streams.
    pub poll: &'a Poll,
    /// Where records go.
    pub log: &'a mut LogPort,
}

/// What happened to an app, for the pod to act on.
#[derive(Debug)]
pub enum Event {
    /// Its program is executing.
    Started(i32),
    /// It could not be started.
    StartFailed(Failure),
    /// It has ended and all of its output was delivered.
    Exited {
        /// How.
        end: End,
        /// It had been asked to.
        stopped: bool,
        /// When its process was reaped.
        time_ns: u64,
        /// How many of its processes the kernel killed for want of memory.
        oom_kills: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Created,
    PreStart(usize),
    Running,
    PostStop(usize),
    /// Its output is read to the end.
    Draining {
        until_ns: u64,
    },
    /// Its records leave up to this position of the log.
    Flushing {
        position: u64,
    },
    Exited,
}

/// An app of the pod.
#[derive(Debug)]
pub struct App {
    /// Its number in event tokens.
    pub id: u32,
    /// What the host asked for.
    pub spec: AppSpec,
    state: State,
    ports: AppPorts,
    sandbox: Sandbox,
    cgroup: Cgroup,
    channels: Option<Channels>,
    process: Option<Child>,
    pid: i32,
    end: Option<(End, u64)>,
    oom_kills_before: u64,
    is_stopping: bool,
    kill_at_ns: Option<u64>,
}

impl App {
    /// Prepares an app: ports, cgroup, namespaces, root.
    pub fn create(id: u32, spec: AppSpec, pod: &PodFiles, poll: &Poll) -> Outcome<App> {
        let ports = AppPorts::open(&spec, poll, id)?;
        let cgroup = Cgroup::create(&spec.name, &spec.limits)?;
        let sandbox = match Sandbox::create(&spec, pod) {
            Ok(sandbox) => sandbox,
            Err(failure) => {
                cgroup.remove();
                // It may not have come as far as making it.
                let _ = rootfs::remove_scratch(&spec.name);
                return Err(failure);
            }
        };
        Ok(App {
            id,
            spec,
            state: State::Created,
            ports,
            sandbox,
            cgroup,
            channels: None,
            process: None,
            pid: 0,
            end: None,
            oom_kills_before: 0,
            is_stopping: false,
            kill_at_ns: None,
        })
    }

    /// The state as the protocol names it.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Created | State::PreStart(_) => "created",
            State::Running => "running",
            _ if self.end.is_some() && self.state != State::Exited => "running",
            _ => "exited",
        }
    }

    /// The main process's number while it runs.
    pub fn pid(&self) -> Option<i32> {
        (self.state == State::Running).then_some(self.pid)
    }

    /// How it ended.
    pub fn end(&self) -> Option<End> {
        self.end.map(|(end, _)| end).filter(|_| self.state == State::Exited)
    }

    /// Its namespaces.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What it uses.
    pub fn usage(&self) -> Usage {
        self.cgroup.usage()
    }

    /// Whether something of it still runs or is still to be delivered.
    pub fn is_active(&self) -> bool {
        !matches!(self.state, State::Created | State::Exited)
    }

    /// Starts it: handlers first, one after the other, each step when the one before has ended.
    pub fn start(&mut self, context: &mut Context<'_>) -> Outcome<Option<Event>> {
        if self.is_active() {
            let message = format!("app {} is already running", self.spec.name);
            return Err(Failure::new(Kind::WrongState, message));
        }
        let token = Token::App(self.id);
        self.channels =
            Some(Channels::open(&self.spec, &self.ports, &self.sandbox, context.poll, token)?);
        self.end = None;
        self.oom_kills_before = self.cgroup.oom_kills();
        self.is_stopping = false;
        self.kill_at_ns = None;
        self.state = State::PreStart(0);
        Ok(self.start_next(context))
    }

    /// Runs the next pre-start handler, or the app itself after the last.
    fn start_next(&mut self, context: &mut Context<'_>) -> Option<Event> {
        let State::PreStart(index) = self.state else { return None };
        let is_main = index >= self.spec.pre_start.len();
        let argv = self.spec.pre_start.get(index).unwrap_or(&self.spec.argv);
        match self.spawn(argv, is_main, context) {
            Err(failure) if is_main => Some(self.abandon_start(failure)),
            Err(failure) => {
                let handler = name_handler("pre-start", &self.spec.pre_start, index);
                let message = format!("{handler} failed: {}", failure.message);
                Some(self.abandon_start(Failure::new(Kind::HandlerFailed, message)))
            }
            Ok(child) => {
                self.pid = child.pid.as_raw_nonzero().get();
                self.process = Some(child);
                if !is_main {
                    return None;
                }
                self.state = State::Running;
                Some(Event::Started(self.pid))
            }
        }
    }

    fn spawn(&self, argv: &[String], is_main: bool, context: &Context<'_>) -> Outcome<Child> {
        let Some(channels) = &self.channels else {
            return Err(Failure::new(Kind::Internal, "the app's streams are closed"));
        };
        let child = launch(&Launch {
            app: &self.spec,
            argv,
            stdio: if is_main { channels.stdio() } else { channels.handler_stdio() },
            terminal: if is_main { channels.terminal_end() } else { None },
            sandbox: &self.sandbox,
            cgroup: &self.cgroup,
        })?;
        context.poll.watch(&child.pidfd, Token::App(self.id))?;
        Ok(child)
    }

    fn abandon_start(&mut self, failure: Failure) -> Event {
        self.cgroup.kill();
        self.channels = None;
        self.process = None;
        self.state = State::Created;
        Event::StartFailed(failure)
    }

    /// Asks it to end; whatever is left after the grace is killed.
    pub fn stop(&mut self, grace_seconds: u64) {
        if !self.is_active() {
            return;
        }
        self.is_stopping = true;
        let grace_ns = grace_seconds.saturating_mul(1_000_000_000);
        let kill_at_ns = sys::clock_ns(Clock::Boot).saturating_add(grace_ns);
        self.kill_at_ns = Some(self.kill_at_ns.map_or(kill_at_ns, |at_ns| at_ns.min(kill_at_ns)));
        if let (Some(process), State::Running | State::PreStart(_)) = (&self.process, self.state) {
            // It may have ended a moment ago.
            let _ = pidfd_send_signal(&process.pidfd, Signal::TERM);
            if self.spec.uses_terminal() {
                // Interactive shells ignore SIGTERM; losing their terminal ends them.
                let _ = pidfd_send_signal(&process.pidfd, Signal::HUP);
            }
            let _ = pidfd_send_signal(&process.pidfd, Signal::CONT);
        }
    }

    /// Sends a signal to its process; on a terminal to what runs in the foreground.
    pub fn signal(&self, number: i32) -> Outcome<()> {
        let (Some(process), State::Running) = (&self.process, self.state) else {
            let message = format!("app {} is not running", self.spec.name);
            return Err(Failure::new(Kind::WrongState, message));
        };
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| Failure::new(Kind::InvalidSpec, format!("no signal {number}")))?;
        let master = self.channels.as_ref().and_then(Channels::terminal);
        let result = match master.and_then(|master| terminal::foreground_group(&**master)) {
            Some(group) => kill_process_group(group, signal),
            None => pidfd_send_signal(&process.pidfd, signal),
        };
        result.trying(Kind::Internal, format_args!("send signal {number} to {}", self.spec.name))
    }

    /// Sets its terminal's size.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Outcome<()> {
        let Some(size) = &mut self.spec.terminal else {
            let message = format!("app {} has no terminal", self.spec.name);
            return Err(Failure::new(Kind::WrongState, message));
        };
        (size.rows, size.columns) = (rows, columns);
        match self.channels.as_ref().and_then(Channels::terminal) {
            Some(master) => terminal::resize(&**master, rows, columns),
            None => Ok(()),
        }
    }

    /// An event of the port with that number has come.
    pub fn note_port_event(&self, number: u8) {
        self.ports.note_event(number);
    }

    /// Works on everything that is ready. True in the second place: there is more right away.
    pub fn turn(&mut self, context: &mut Context<'_>) -> (Option<Event>, bool) {
        let more = match &mut self.channels {
            Some(channels) => channels.turn(&self.spec.name, self.pid, context.log),
            None => false,
        };
        if self.kill_at_ns.is_some_and(|at_ns| at_ns <= sys::clock_ns(Clock::Boot)) {
            self.kill_at_ns = None;
            self.cgroup.kill();
        }
        let event = match self.reap() {
            Some(end) => self.step(end, context),
            None => self.settle(context),
        };
        (event, more)
    }

    /// When [`App::turn`] is due though nothing happened, on the boot clock.
    pub fn deadline_ns(&self) -> Option<u64> {
        let draining_ns = match self.state {
            State::Draining { until_ns } => Some(until_ns),
            _ => None,
        };
        let input_ns = self.channels.as_ref().and_then(Channels::deadline_ns);
        [self.kill_at_ns, draining_ns, input_ns].into_iter().flatten().min()
    }

    fn reap(&mut self) -> Option<End> {
        let process = self.process.as_ref()?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(process.pidfd.as_fd()), options).ok()??;
        self.process = None;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Code(code),
            (None, signal) => End::Signal(signal.unwrap_or(0)),
        })
    }

    /// A process of the app has ended: what comes next?
    fn step(&mut self, end: End, context: &mut Context<'_>) -> Option<Event> {
        match self.state {
            State::PreStart(index) if end.is_success() && !self.is_stopping => {
                self.state = State::PreStart(index + 1);
                self.start_next(context)
            }
            State::PreStart(_) if self.is_stopping => {
                let message = format!("app {} was stopped before it had started", self.spec.name);
                Some(self.abandon_start(Failure::new(Kind::WrongState, message)))
            }
            State::PreStart(index) => {
                let message = format!(
                    "{} {}",
                    name_handler("pre-start", &self.spec.pre_start, index),
                    in_words(end)
                );
                Some(self.abandon_start(Failure::new(Kind::HandlerFailed, message)))
            }
            State::Running => {
                self.end = Some((end, sys::clock_ns(Clock::Real)));
                // What it left behind must not outlive it, nor hold its streams open.
                self.cgroup.kill();
                self.state = State::PostStop(0);
                self.run_post_stop(context)
            }
            State::PostStop(index) => {
                if !end.is_success() {
                    self.log_handler(index, &in_words(end), context);
                }
                self.state = State::PostStop(index + 1);
                self.run_post_stop(context)
            }
            _ => None,
        }
    }

    fn run_post_stop(&mut self, context: &mut Context<'_>) -> Option<Event> {
        while let State::PostStop(index) = self.state {
            let Some(argv) = self.spec.post_stop.get(index) else { break };
            match self.spawn(argv, false, context) {
                Ok(child) => {
                    self.process = Some(child);
                    return None;
                }
                Err(failure) => {
                    self.log_handler(index, &format!("failed: {}", failure.message), context);
                    self.state = State::PostStop(index + 1);
                }
            }
        }
        self.cgroup.kill();
        if let Some(channels) = &mut self.channels {
            channels.close_ends();
        }
        let until_ns = sys::clock_ns(Clock::Boot) + DRAIN_NS;
        self.state = State::Draining { until_ns };
        if let Some(channels) = &mut self.channels {
            channels.turn(&self.spec.name, self.pid, context.log);
        }
        self.settle(context)
    }

    fn log_handler(&self, index: usize, problem: &str, context: &mut Context<'_>) {
        let origin = Origin {
            time_ns: sys::clock_ns(Clock::Real),
            uptime_ns: sys::clock_ns(Clock::Boot),
            app: &self.spec.name,
            pid: self.pid,
            stream: "stderr",
        };
        let text = format!("{} {problem}", name_handler("post-stop", &self.spec.post_stop, index));
        context.log.append(&lines::record(&origin, text.as_bytes(), false));
    }

    /// After the end: waits for output and records, then reports.
    fn settle(&mut self, context: &mut Context<'_>) -> Option<Event> {
        if let State::Draining { until_ns } = self.state {
            let channels = self.channels.as_mut()?;
            if !channels.is_drained() {
                let now_ns = sys::clock_ns(Clock::Boot);
                if channels.waits_for_host(context.log) {
                    self.state = State::Draining { until_ns: now_ns + DRAIN_NS };
                    return None;
                }
                if now_ns < until_ns {
                    return None;
                }
            }
            channels.finish(&self.spec.name, self.pid, context.log);
            self.channels = None;
            self.state = State::Flushing { position: context.log.position() };
        }
        let State::Flushing { position } = self.state else { return None };
        // A failing port is reported by the event loop, which flushes it too.
        let _ = context.log.flush();
        if !context.log.has_passed(position) {
            return None;
        }
        self.state = State::Exited;
        self.kill_at_ns = None;
        let (end, time_ns) = self.end?;
        let oom_kills = self.cgroup.oom_kills().saturating_sub(self.oom_kills_before);
        Some(Event::Exited { end, stopped: self.is_stopping, time_ns, oom_kills })
    }

    /// Takes a stopped app away with all that belongs to it.
    pub fn remove(self) -> Outcome<()> {
        self.sandbox.end();
        self.cgroup.remove();
        rootfs::remove_scratch(&self.spec.name)
    }
}

fn name_handler(when: &str, handlers: &[Vec<String>], index: usize) -> String {
    let program = handlers.get(index).and_then(|argv| argv.first()).map_or("", String::as_str);
    format!("{when} handler {program:?}")
}

fn in_words(end: End) -> String {
    match end {
        End::Code(code) => format!("ended with code {code}"),
        End::Signal(signal) => format!("was killed by signal {signal}"),
    }
}
