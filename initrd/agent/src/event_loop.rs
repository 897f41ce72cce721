//! The agent as a whole: the loop that turns readiness into steps of the pod.

use crate::additions::Addition;
use crate::control::Control;
use crate::failure::{Failure, Kind, Outcome};
use crate::log_port::{END, LogPort};
use crate::pod::{Hands, Pod};
use crate::poll::{Poll, Token};
use crate::protocol;
use crate::protocol::message::{self, Empty, Failed, Hello};
use crate::ssh::Ssh;
use crate::sys::{self, Clock};
use crate::{ports, power};
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::OwnedFd;
use rustix::system::uname;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last app is gone.
    PodOver,
    /// The host said so.
    Halted,
}

/// Everything the agent holds.
#[derive(Debug)]
pub struct Agent {
    pub(crate) poll: Poll,
    pub(crate) control: Control,
    log: LogPort,
    pub(crate) pod: Option<Pod>,
    pub(crate) ending: Option<Ending>,
    pub(crate) ssh: Option<Ssh>,
    pub(crate) additions: Vec<Addition>,
    /// Apps with more to do right away.
    busy: Vec<u32>,
}

impl Agent {
    /// An agent on its two ports.
    pub fn new(control: OwnedFd, log: OwnedFd) -> Outcome<Agent> {
        let poll = Poll::new()?;
        poll.watch(&control, Token::Control)?;
        poll.watch(&log, Token::Log)?;
        Ok(Agent {
            poll,
            control: Control::new(control),
            log: LogPort::new(log),
            pod: None,
            ending: None,
            ssh: None,
            additions: Vec::new(),
            busy: Vec::new(),
        })
    }

    /// Tells the host that the guest is there. A failing port shows in the loop.
    pub fn say_hello(&mut self) {
        let system = uname();
        let hello = Hello {
            protocol: protocol::VERSION,
            agent: env!("CARGO_PKG_VERSION"),
            kernel: system.release().to_str().unwrap_or(""),
            uptime_ns: sys::clock_ns(Clock::Boot),
        };
        let _ = self.control.send(&message::notice("hello", &hello));
    }

    /// The pod, once it was started.
    pub(crate) fn pod(&mut self) -> Outcome<&mut Pod> {
        self.pod.as_mut().ok_or_else(no_pod)
    }

    /// The pod and what it works with.
    pub(crate) fn pod_and_hands(&mut self) -> Outcome<(&mut Pod, Hands<'_>)> {
        let pod = self.pod.as_mut().ok_or_else(no_pod)?;
        let hands = Hands { poll: &self.poll, control: &mut self.control, log: &mut self.log };
        Ok((pod, hands))
    }

    /// Works until the pod is over or the host halts it.
    pub fn run(&mut self) -> Outcome<Ending> {
        loop {
            let tokens = self.poll.wait(self.timeout_ns())?;
            let woken_by_time = tokens.is_empty();
            let mut ids = core::mem::take(&mut self.busy);
            // Before anything is written: these events are about what was written before.
            for token in &tokens {
                self.note_event(*token, &mut ids);
            }
            if tokens.contains(&Token::Control) {
                self.work_on_control()?;
            }
            if tokens.contains(&Token::Log) {
                self.work_on_log()?;
            }
            for id in ids {
                self.work_on_app(id)?;
            }
            if tokens.contains(&Token::Ssh) {
                self.work_on_ssh()?;
            }
            self.work_on_additions()?;
            if woken_by_time {
                self.work_on_all_apps()?;
            }
            self.log.flush()?;
            if let Some(ending) = self.ending {
                return Ok(ending);
            }
            if self.pod.as_ref().is_some_and(Pod::is_over) {
                return Ok(Ending::PodOver);
            }
        }
    }

    /// Tells a port of its event and adds the app to work on to `ids`.
    fn note_event(&self, token: Token, ids: &mut Vec<u32>) {
        let id = match token {
            Token::Control | Token::Ssh => return,
            Token::Log => {
                self.log.port().note_event();
                return;
            }
            Token::App(id) => id,
            Token::AppPort(id, number) => {
                if let Some(pod) = &self.pod {
                    pod.note_port_event(id, number);
                }
                id
            }
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    /// None: only an event can bring work.
    fn timeout_ns(&self) -> Option<u64> {
        if !self.busy.is_empty() {
            return Some(0);
        }
        let of_pod = self.pod.as_ref().and_then(Pod::deadline_ns);
        let deadline_ns = of_pod.into_iter().chain(self.next_look_ns()).min()?;
        Some(deadline_ns.saturating_sub(sys::clock_ns(Clock::Boot)))
    }

    fn work_on_control(&mut self) -> Outcome<()> {
        self.control.flush()?;
        while self.ending.is_none() {
            let Some(line) = self.control.next_line()? else { return Ok(()) };
            self.handle(&line)?;
        }
        Ok(())
    }

    /// The host has taken records: outputs that waited for room go on, ends that waited for their
    /// records are reported.
    fn work_on_log(&mut self) -> Outcome<()> {
        self.log.flush()?;
        self.work_on_all_apps()
    }

    fn work_on_all_apps(&mut self) -> Outcome<()> {
        let ids: Vec<u32> = self.pod.iter().flat_map(|pod| &pod.apps).map(|app| app.id).collect();
        ids.into_iter().try_for_each(|id| self.work_on_app(id))
    }

    fn work_on_app(&mut self, id: u32) -> Outcome<()> {
        let Ok((pod, mut hands)) = self.pod_and_hands() else { return Ok(()) };
        if pod.turn(id, &mut hands)? && !self.busy.contains(&id) {
            self.busy.push(id);
        }
        Ok(())
    }

    fn work_on_ssh(&mut self) -> Outcome<()> {
        let (Some(ssh), Some(pod)) = (&mut self.ssh, &mut self.pod) else { return Ok(()) };
        match ssh.turn(pod, &self.poll)? {
            Some(line) => self.control.send(&line),
            None => Ok(()),
        }
    }

    /// Ends everything and says so. The machine may be reset after it.
    pub fn shut_down(&mut self, result: Outcome<Ending>) {
        self.pod = None;
        power::kill_everything();
        self.log.append(END);
        self.flush_log();
        power::unmount_everything();
        let last_word = match &result {
            Ok(Ending::PodOver) => Some(message::notice("pod.exited", &Empty {})),
            Ok(Ending::Halted) => None,
            Err(failure) => {
                sys::console(format_args!("kvmrkt-agent: {}\n", failure.message));
                let notice = Failed { message: &failure.message };
                Some(message::notice("agent.failed", &notice))
            }
        };
        // The host has left or will see the machine end; there is nobody else to tell.
        let _ = self.control.send(&last_word.unwrap_or_default());
        for _ in 0..LAST_TRIES {
            ports::drain(self.control.port());
            if self.control.is_flushed() || self.control.flush().is_err() {
                break;
            }
        }
        ports::drain(self.control.port());
    }

    /// Waits until the host has taken the last record, as long as it takes any.
    fn flush_log(&mut self) {
        while self.log.flush().is_ok() && !self.log.is_delivered() {
            match self.poll.wait(Some(HOST_PATIENCE_NS)) {
                Ok(tokens) if tokens.contains(&Token::Log) => self.log.port().note_event(),
                Ok(tokens) if !tokens.is_empty() => {}
                _ => return,
            }
        }
    }
}

/// How long a host that takes no records holds up the end.
const HOST_PATIENCE_NS: u64 = 10_000_000_000;
/// Writes of 32 KiB, each waited for two seconds at most, that empty a full queue.
const LAST_TRIES: usize = 16;

fn no_pod() -> Failure {
    Failure::new(Kind::WrongState, String::from("the pod was not started"))
}
