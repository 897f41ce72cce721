//! `app.add` for apps whose disks have not appeared yet: a disk that is plugged in takes the kernel a
//! moment to find. The agent goes on meanwhile.

use crate::disks;
use crate::event_loop::Agent;
use crate::failure::Outcome;
use crate::ports::WAIT_NS;
use crate::protocol::message::{self, Empty, RequestId};
use crate::protocol::spec::AppSpec;
use crate::sys::{self, Clock};

/// How long until it is looked for a disk again.
const PAUSE_NS: u64 = 20_000_000;

/// An app that waits for its disk.
#[derive(Debug)]
pub struct Addition {
    request: RequestId,
    app: AppSpec,
    until_ns: u64,
}

impl Agent {
    /// Answers the request once the app's disk is there, or has not appeared in time.
    pub(crate) fn add_later(&mut self, app: AppSpec, request: RequestId) {
        let until_ns = sys::clock_ns(Clock::Boot) + WAIT_NS as u64;
        self.additions.push(Addition { request, app, until_ns });
    }

    /// When it is time to look for disks again, on the boot clock.
    pub(crate) fn next_look_ns(&self) -> Option<u64> {
        if self.additions.is_empty() { None } else { Some(sys::clock_ns(Clock::Boot) + PAUSE_NS) }
    }

    /// Looks whether disks have appeared.
    pub(crate) fn work_on_additions(&mut self) -> Outcome<()> {
        for addition in core::mem::take(&mut self.additions) {
            let is_late = sys::clock_ns(Clock::Boot) >= addition.until_ns;
            let (pod, hands) = self.pod_and_hands()?;
            let has_disk = pod.has_disk(&addition.app.disk);
            if !has_disk && !is_late {
                self.additions.push(addition);
                continue;
            }
            let Addition { request, app, .. } = addition;
            let name = app.name.clone();
            let result = if has_disk {
                pod.add(app, hands.poll).map(|_| ())
            } else {
                Err(disks::missing(&app.disk))
            };
            let answer = match result {
                Ok(()) => message::reply(&request, &Empty {}),
                Err(failure) => message::failure(&request, &failure, Some(&name)),
            };
            self.control.send(&answer)?;
        }
        Ok(())
    }
}
