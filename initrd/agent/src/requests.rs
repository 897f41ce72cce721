//! The methods of the control port.

use crate::event_loop::{Agent, Ending};
use crate::export;
use crate::failure::{Failure, Kind, Outcome};
use crate::files;
use crate::pod::Pod;
use crate::protocol::message::{self, Empty, End, Refusal, Request, RequestId};
use crate::protocol::spec::{AppSpec, ExportSpec, PodSpec};
use crate::protocol::validate;
use crate::ssh::Ssh;
use crate::sys::{self, Clock};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What the host may call.
pub const METHODS: [&str; 13] = [
    "pod.start",
    "pod.stop",
    "pod.halt",
    "pod.status",
    "pod.stats",
    "app.add",
    "app.start",
    "app.stop",
    "app.signal",
    "app.remove",
    "app.resize",
    "app.export",
    "ssh.start",
];

/// Largest grace: a day.
const GRACE_SECONDS_MAX: u64 = 86_400;

#[derive(Deserialize)]
struct Stop {
    grace_seconds: u64,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct StopApp {
    name: String,
    grace_seconds: u64,
}

#[derive(Deserialize)]
struct SignalApp {
    name: String,
    signal: i32,
}

#[derive(Deserialize)]
struct ResizeApp {
    name: String,
    rows: u16,
    columns: u16,
}

#[derive(Serialize)]
struct Exported {
    bytes: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    apps: Vec<AppStatus<'a>>,
    memory_available_bytes: u64,
    uptime_ns: u64,
}

#[derive(Serialize)]
struct AppStatus<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
struct Stats<'a> {
    apps: Vec<AppStats<'a>>,
}

#[derive(Serialize)]
struct AppStats<'a> {
    name: &'a str,
    cpu_usec: u64,
    memory_bytes: u64,
    processes: u64,
}

/// Why a request is answered with an error.
enum Problem {
    /// The message itself.
    Refused(Refusal),
    /// What it asks for.
    Failed(Failure, Option<String>),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem::Refused(refusal)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Failed(failure, None)
    }
}

/// Names the app in an error.
fn of_app(name: &str) -> impl FnOnce(Failure) -> Problem {
    let name = String::from(name);
    move |failure| Problem::Failed(failure, Some(name))
}

/// The answer to a request: now, or when something else has happened.
enum Answer {
    Now(Vec<u8>),
    Later,
}

impl Agent {
    /// Handles one line from the host.
    pub fn handle(&mut self, line: &[u8]) -> Outcome<()> {
        let request = match Request::parse(line) {
            Ok(request) => request,
            Err(refusal) => return self.control.send(&message::refusal(None, &refusal)),
        };
        let Some(id) = request.id.clone() else {
            // The host sends no notifications; an unknown one is ignored as JSON-RPC asks.
            return Ok(());
        };
        let answer = match self.answer(&request, &id) {
            Ok(Answer::Now(answer)) => answer,
            Ok(Answer::Later) => return Ok(()),
            Err(Problem::Refused(refusal)) => message::refusal(Some(&id), &refusal),
            Err(Problem::Failed(failure, app)) => message::failure(&id, &failure, app.as_deref()),
        };
        self.control.send(&answer)
    }

    fn answer(&mut self, request: &Request, id: &RequestId) -> Result<Answer, Problem> {
        let done = || Ok(Answer::Now(message::reply(id, &Empty {})));
        match request.method.as_str() {
            "pod.start" => {
                self.start_pod(request.params()?, id)?;
                Ok(Answer::Later)
            }
            "pod.stop" => {
                let Stop { grace_seconds } = request.params()?;
                self.pod()?.stop(grace_seconds.min(GRACE_SECONDS_MAX));
                done()
            }
            "pod.halt" => {
                self.ending = Some(Ending::Halted);
                done()
            }
            "pod.status" => Ok(Answer::Now(self.status(id))),
            "pod.stats" => Ok(Answer::Now(self.stats(id))),
            "app.add" => {
                let spec: AppSpec = request.params()?;
                let name = spec.name.clone();
                validate::app(&spec).map_err(of_app(&name))?;
                let (pod, hands) = self.pod_and_hands()?;
                if !pod.has_disk(&spec.disk) {
                    self.add_later(spec, id.clone());
                    return Ok(Answer::Later);
                }
                pod.add(spec, hands.poll).map_err(of_app(&name))?;
                done()
            }
            "app.start" => {
                let Name { name } = request.params()?;
                let (pod, mut hands) = self.pod_and_hands()?;
                pod.start_app(&name, id.clone(), &mut hands).map_err(of_app(&name))?;
                Ok(Answer::Later)
            }
            "app.stop" => {
                let StopApp { name, grace_seconds } = request.params()?;
                let app = self.pod()?.app(&name).map_err(of_app(&name))?;
                app.stop(grace_seconds.min(GRACE_SECONDS_MAX));
                done()
            }
            "app.signal" => {
                let SignalApp { name, signal } = request.params()?;
                let app = self.pod()?.app(&name).map_err(of_app(&name))?;
                app.signal(signal).map_err(of_app(&name))?;
                done()
            }
            "app.resize" => {
                let ResizeApp { name, rows, columns } = request.params()?;
                let app = self.pod()?.app(&name).map_err(of_app(&name))?;
                app.resize(rows, columns).map_err(of_app(&name))?;
                done()
            }
            "app.remove" => {
                let Name { name } = request.params()?;
                let app = self.pod()?.app(&name).map_err(of_app(&name))?.id;
                if let Some(ssh) = &mut self.ssh {
                    ssh.end_sessions_of(app);
                }
                self.pod()?.remove(&name).map_err(of_app(&name))?;
                done()
            }
            "app.export" => {
                let bytes = self.export_app(&request.params()?)?;
                Ok(Answer::Now(message::reply(id, &Exported { bytes })))
            }
            "ssh.start" => {
                let start = request.params()?;
                self.pod()?;
                if self.ssh.is_some() {
                    let message = "the SSH server was already started";
                    return Err(Failure::new(Kind::WrongState, message).into());
                }
                self.ssh = Some(Ssh::prepare(start, id.clone(), &self.poll)?);
                Ok(Answer::Later)
            }
            method => Err(Refusal::unknown_method(method).into()),
        }
    }

    /// Sends an app's root to the host, whose guest this is for nothing else: it does not go on
    /// meanwhile, and ends with the machine.
    fn export_app(&mut self, spec: &ExportSpec) -> Result<u64, Problem> {
        if self.pod.is_some() {
            return Err(Failure::new(Kind::WrongState, "the pod was already started").into());
        }
        validate::export(spec)?;
        self.pod = Some(Pod::failed());
        Ok(export::send(spec)?)
    }

    fn start_pod(&mut self, spec: PodSpec, id: &RequestId) -> Result<(), Problem> {
        if self.pod.is_some() {
            let message = "the pod was already started";
            return Err(Failure::new(Kind::WrongState, message).into());
        }
        validate::pod(&spec)?;
        match Pod::create(spec, &self.poll) {
            Ok(pod) => self.pod = Some(pod),
            Err((failure, app)) => {
                self.pod = Some(Pod::failed());
                return Err(Problem::Failed(failure, app));
            }
        }
        let (pod, mut hands) = self.pod_and_hands()?;
        Ok(pod.start(id.clone(), &mut hands)?)
    }

    fn status(&self, id: &RequestId) -> Vec<u8> {
        let apps = self.pod.iter().flat_map(|pod| &pod.apps).map(|app| AppStatus {
            name: &app.spec.name,
            state: app.state_name(),
            pid: app.pid(),
            end: app.end(),
        });
        let status = Status {
            apps: apps.collect(),
            memory_available_bytes: memory_available_bytes().unwrap_or(0),
            uptime_ns: sys::clock_ns(Clock::Boot),
        };
        message::reply(id, &status)
    }

    fn stats(&self, id: &RequestId) -> Vec<u8> {
        let apps = self.pod.iter().flat_map(|pod| &pod.apps).map(|app| {
            let usage = app.usage();
            AppStats {
                name: &app.spec.name,
                cpu_usec: usage.cpu_usec,
                memory_bytes: usage.memory_bytes,
                processes: usage.processes,
            }
        });
        message::reply(id, &Stats { apps: apps.collect() })
    }
}

fn memory_available_bytes() -> Option<u64> {
    let content = files::read("/proc/meminfo", 16 * 1024).ok()?;
    let text = core::str::from_utf8(&content).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
