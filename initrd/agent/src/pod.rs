//! The pod: what its apps share, in which order they start, and when all of it is over.

use crate::app::{App, Context, Event};
use crate::control::Control;
use crate::failure::{Failure, Kind, Outcome};
use crate::log_port::LogPort;
use crate::poll::Poll;
use crate::protocol::message::{self, Empty, Exited, RequestId, Started};
use crate::protocol::spec::{AppSpec, OnFailure, PodSpec, VolumeKind};
use crate::rootfs::PodFiles;
use crate::sys::{self, Clock};
use crate::{disks, guest, volumes};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Grace of the others when an app has failed.
const FAILURE_GRACE_SECONDS: u64 = 10;

/// A failure and the app it befell.
pub type AppResult<T> = Result<T, (Failure, Option<String>)>;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// As long as an app runs, or for good when the pod outlives its apps.
    Up,
    /// It ends with its last app.
    Stopping,
    /// Starting failed: only a halt is left.
    Failed,
}

/// What is waiting for an app's start.
#[derive(Debug)]
struct Waiting {
    request: RequestId,
    app: u32,
    /// The answer of `app.start`, as opposed to `pod.start`'s last app.
    is_app_start: bool,
}

/// The pod of this guest.
#[derive(Debug)]
pub struct Pod {
    /// Its apps.
    pub apps: Vec<App>,
    phase: Phase,
    on_failure: OnFailure,
    files: PodFiles,
    disks: Vec<String>,
    next_id: u32,
    queue: VecDeque<u32>,
    start_request: Option<RequestId>,
    waiting: Vec<Waiting>,
}

/// The parts of the agent that the pod uses.
#[derive(Debug)]
pub struct Hands<'a> {
    /// The event set.
    pub poll: &'a Poll,
    /// For notifications and delayed answers.
    pub control: &'a mut Control,
    /// For records.
    pub log: &'a mut LogPort,
}

impl Pod {
    /// Sets the guest up as the spec says and prepares all apps.
    pub fn create(spec: PodSpec, poll: &Poll) -> AppResult<Pod> {
        let whole = |failure| (failure, None);
        guest::set_up(&spec).map_err(whole)?;
        let mut mounted = Vec::new();
        for disk in &spec.disks {
            disks::mount_disk(disk).map_err(whole)?;
            mounted.push(disk.serial.clone());
        }
        if !mounted.iter().any(|serial| serial == disks::SCRATCH_SERIAL) {
            disks::mount_scratch_in_memory().map_err(whole)?;
        }
        if let Some(share) = &spec.share {
            volumes::mount_share(share).map_err(whole)?;
        }
        for volume in spec.volumes.iter().filter(|volume| volume.kind == VolumeKind::Empty) {
            volumes::make_empty(volume).map_err(whole)?;
        }
        let mut pod = Pod {
            apps: Vec::with_capacity(spec.apps.len()),
            phase: Phase::Up,
            on_failure: spec.on_failure,
            files: PodFiles {
                volumes: spec.volumes,
                has_hosts: spec.hosts.is_some(),
                has_resolv_conf: spec.resolv_conf.is_some(),
            },
            disks: mounted,
            next_id: 0,
            queue: VecDeque::new(),
            start_request: None,
            waiting: Vec::new(),
        };
        for app in spec.apps {
            let name = app.name.clone();
            let id = pod.add(app, poll).map_err(|failure| (failure, Some(name)))?;
            pod.queue.push_back(id);
        }
        Ok(pod)
    }

    /// A pod that could not be set up and waits to be halted.
    pub fn failed() -> Pod {
        Pod {
            apps: Vec::new(),
            phase: Phase::Failed,
            on_failure: OnFailure::Continue,
            files: PodFiles::default(),
            disks: Vec::new(),
            next_id: 0,
            queue: VecDeque::new(),
            start_request: None,
            waiting: Vec::new(),
        }
    }

    /// Whether an app on that disk can be added without waiting for it.
    pub fn has_disk(&self, serial: &str) -> bool {
        self.disks.iter().any(|mounted| mounted == serial) || disks::is_there(serial)
    }

    /// Prepares one more app and gives its number.
    pub fn add(&mut self, spec: AppSpec, poll: &Poll) -> Outcome<u32> {
        if self.phase != Phase::Up {
            return Err(Failure::new(Kind::WrongState, "the pod is ending"));
        }
        if self.apps.iter().any(|app| app.spec.name == spec.name) {
            let message = format!("the pod already has an app {}", spec.name);
            return Err(Failure::new(Kind::WrongState, message));
        }
        if !self.disks.contains(&spec.disk) {
            let (serial, filesystem) = (spec.disk.clone(), String::from("squashfs"));
            let disk = crate::protocol::spec::Disk { serial, filesystem, read_only: true };
            disks::mount_disk(&disk)?;
            self.disks.push(disk.serial);
        }
        let app = App::create(self.next_id, spec, &self.files, poll)?;
        self.next_id += 1;
        let id = app.id;
        self.apps.push(app);
        Ok(id)
    }

    /// The app of that name.
    pub fn app(&mut self, name: &str) -> Outcome<&mut App> {
        let missing = || Failure::new(Kind::NoSuchApp, format!("the pod has no app {name}"));
        self.apps.iter_mut().find(|app| app.spec.name == name).ok_or_else(missing)
    }

    /// Starts all apps in their order and answers `request` after the last.
    pub fn start(&mut self, request: RequestId, hands: &mut Hands<'_>) -> Outcome<()> {
        self.start_request = Some(request);
        self.start_queued(hands)
    }

    fn start_queued(&mut self, hands: &mut Hands<'_>) -> Outcome<()> {
        while self.phase == Phase::Up {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(app) = self.apps.iter_mut().find(|app| app.id == id) else { continue };
            let mut context = Context { poll: hands.poll, log: hands.log };
            let event =
                app.start(&mut context).unwrap_or_else(|failure| Some(Event::StartFailed(failure)));
            match event {
                // Its handlers run; Started comes later.
                None => {
                    if let Some(request) = self.start_request.clone() {
                        self.waiting.push(Waiting { request, app: id, is_app_start: false });
                    }
                    return Ok(());
                }
                Some(event) => self.take(id, event, hands)?,
            }
        }
        if self.phase != Phase::Failed {
            if let Some(request) = self.start_request.take() {
                hands.control.send(&message::reply(&request, &Empty {}))?;
            }
        }
        Ok(())
    }

    /// Starts one app and answers `request` once it runs.
    pub fn start_app(
        &mut self,
        name: &str,
        request: RequestId,
        hands: &mut Hands<'_>,
    ) -> Outcome<()> {
        if self.phase != Phase::Up || self.start_request.is_some() {
            return Err(Failure::new(Kind::WrongState, "the pod is starting or ending"));
        }
        let app = self.app(name)?;
        let id = app.id;
        let mut context = Context { poll: hands.poll, log: hands.log };
        let event = app.start(&mut context)?;
        self.waiting.push(Waiting { request, app: id, is_app_start: true });
        match event {
            Some(event) => self.take(id, event, hands),
            None => Ok(()),
        }
    }

    /// Asks all apps to end; the pod ends with them.
    pub fn stop(&mut self, grace_seconds: u64) {
        if self.phase == Phase::Up {
            self.phase = Phase::Stopping;
        }
        for app in &mut self.apps {
            app.stop(grace_seconds);
        }
    }

    /// Takes a stopped app away.
    pub fn remove(&mut self, name: &str) -> Outcome<()> {
        if self.app(name)?.is_active() {
            let message = format!("app {name} has not ended");
            return Err(Failure::new(Kind::WrongState, message));
        }
        match self.apps.iter().position(|app| app.spec.name == name) {
            Some(index) => self.apps.remove(index).remove(),
            None => Ok(()),
        }
    }

    /// An event of one of an app's ports has come.
    pub fn note_port_event(&self, id: u32, number: u8) {
        if let Some(app) = self.apps.iter().find(|app| app.id == id) {
            app.note_port_event(number);
        }
    }

    /// Lets an app work on what is ready; true if it has more to do right away.
    pub fn turn(&mut self, id: u32, hands: &mut Hands<'_>) -> Outcome<bool> {
        let Some(app) = self.apps.iter_mut().find(|app| app.id == id) else { return Ok(false) };
        let mut context = Context { poll: hands.poll, log: hands.log };
        let (event, more) = app.turn(&mut context);
        if let Some(event) = event {
            self.take(id, event, hands)?;
        }
        Ok(more)
    }

    /// Whether nothing of the pod is left to wait for.
    pub fn is_over(&self) -> bool {
        let may_end = match self.phase {
            Phase::Up => self.on_failure == OnFailure::Stop && self.start_request.is_none(),
            Phase::Stopping => true,
            Phase::Failed => false,
        };
        may_end && self.apps.iter().all(|app| !app.is_active())
    }

    fn take(&mut self, id: u32, event: Event, hands: &mut Hands<'_>) -> Outcome<()> {
        let Some(app) = self.apps.iter().find(|app| app.id == id) else { return Ok(()) };
        let name = app.spec.name.clone();
        let waiting = match event {
            Event::Exited { .. } => None,
            _ => self.waiting.iter().position(|waiting| waiting.app == id),
        };
        let waiting = waiting.map(|index| self.waiting.remove(index));
        match event {
            Event::Started(pid) => {
                let started = Started { name: &name, pid, time_ns: sys::clock_ns(Clock::Real) };
                hands.control.send(&message::notice("app.started", &started))?;
                match waiting {
                    Some(waiting) if waiting.is_app_start => {
                        let result = StartResult { pid };
                        hands.control.send(&message::reply(&waiting.request, &result))
                    }
                    Some(_) => self.start_queued(hands),
                    None => Ok(()),
                }
            }
            Event::StartFailed(failure) => match waiting {
                Some(Waiting { request, is_app_start: true, .. }) => {
                    hands.control.send(&message::failure(&request, &failure, Some(&name)))
                }
                // Stopped while its handlers ran: that is no failure of the pod's start.
                _ if self.phase == Phase::Stopping => self.start_queued(hands),
                _ => self.fail_start(&failure, &name, hands),
            },
            Event::Exited { end, stopped, time_ns, oom_kills } => {
                let exited = Exited { name: &name, end, stopped, time_ns, oom_kills };
                hands.control.send(&message::notice("app.exited", &exited))?;
                let has_failed = !end.is_success() && !stopped;
                if has_failed && self.on_failure == OnFailure::Stop && self.phase == Phase::Up {
                    self.stop(FAILURE_GRACE_SECONDS);
                }
                Ok(())
            }
        }
    }

    fn fail_start(&mut self, failure: &Failure, app: &str, hands: &mut Hands<'_>) -> Outcome<()> {
        self.phase = Phase::Failed;
        self.queue.clear();
        for app in &mut self.apps {
            app.stop(0);
        }
        match self.start_request.take() {
            Some(request) => hands.control.send(&message::failure(&request, failure, Some(app))),
            None => Ok(()),
        }
    }

    /// The earliest time at which an app has something to do by itself, on the boot clock.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.apps.iter().filter_map(App::deadline_ns).min()
    }
}

#[derive(Debug, serde::Serialize)]
struct StartResult {
    pid: i32,
}
