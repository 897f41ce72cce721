//! One cgroup per app: limits, counters, and killing all of it at once.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::Limits;
use crate::{errno, files, layout};
use alloc::format;
use alloc::string::String;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, mkdir, open, rmdir};
use rustix::io::Errno;

const CPU_PERIOD_USEC: u64 = 100_000;
/// The kernel's least quota.
const CPU_QUOTA_USEC_MIN: u64 = 1_000;

/// An app's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    directory: OwnedFd,
}

/// What an app has used and uses.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/protocol.md defines every field")]
pub struct Usage {
    pub cpu_usec: u64,
    pub memory_bytes: u64,
    pub processes: u64,
}

/// cgroup v1 shares (2 to 262144, 1024 by default) as a v2 weight (1 to 10000, 100 by default), with
/// the conversion that runc and systemd use.
pub fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// The content of `cpu.max` for thousandths of a CPU.
pub fn quota_of_millis(millis: u64) -> String {
    let quota_usec = (millis.saturating_mul(CPU_PERIOD_USEC) / 1_000).max(CPU_QUOTA_USEC_MIN);
    format!("{quota_usec} {CPU_PERIOD_USEC}")
}

impl Cgroup {
    /// Makes the cgroup of an app with its limits.
    pub fn create(app: &str, limits: &Limits) -> Outcome<Cgroup> {
        let path = format!("{}/app-{app}", layout::CGROUPS);
        let attempt = format!("make the cgroup of app {app}");
        match mkdir(&path, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            result => result.trying(Kind::CgroupFailed, &attempt)?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(&path, flags, Mode::empty()).trying(Kind::CgroupFailed, &attempt)?;
        let cgroup = Cgroup { path, directory };
        cgroup.limit(app, limits)?;
        Ok(cgroup)
    }

    fn limit(&self, app: &str, limits: &Limits) -> Outcome<()> {
        let settings = [
            ("memory.max", limits.memory_bytes.map(|bytes| format!("{bytes}"))),
            ("cpu.max", limits.cpu_millis.map(quota_of_millis)),
            ("cpu.weight", limits.cpu_shares.map(|shares| format!("{}", weight_of_shares(shares)))),
            ("pids.max", limits.processes.map(|count| format!("{count}"))),
        ];
        for (name, value) in settings {
            let Some(value) = value else { continue };
            self.write(name, value.as_bytes()).map_err(|reason| {
                let reason = errno::describe(reason);
                let message = format!("app {app}: cannot set {name} to {value}: {reason}");
                Failure::new(Kind::CgroupFailed, message)
            })?;
        }
        if limits.memory_bytes.is_some() {
            // The file is missing in a kernel without swap, where there is nothing to forbid.
            let _ = self.write("memory.swap.max", b"0");
        }
        Ok(())
    }

    fn write(&self, name: &str, value: &[u8]) -> Result<(), Errno> {
        files::write(format!("{}/{name}", self.path), value)
    }

    /// The directory, for processes to be born in.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        // Fails only without processes or in a dying kernel.
        let _ = self.write("cgroup.kill", b"1");
    }

    /// Counters; zero for those the kernel does not keep.
    pub fn usage(&self) -> Usage {
        let number = |name: &str| files::read_number(&format!("{}/{name}", self.path)).unwrap_or(0);
        let cpu = files::read(format!("{}/cpu.stat", self.path), 4096).unwrap_or_default();
        Usage {
            cpu_usec: value_of(&cpu, "usage_usec ").unwrap_or(0),
            memory_bytes: number("memory.current"),
            processes: number("pids.current"),
        }
    }

    /// How many of its processes the kernel has killed for want of memory, the app's or the guest's.
    pub fn oom_kills(&self) -> u64 {
        let events = files::read(format!("{}/memory.events", self.path), 4096).unwrap_or_default();
        value_of(&events, "oom_kill ").unwrap_or(0)
    }

    /// Removes it; a process that is still dying only leaves the directory behind.
    pub fn remove(self) {
        let _ = rmdir(&self.path);
    }
}

/// The number behind `key` in a file of one pair a line.
fn value_of(content: &[u8], key: &str) -> Option<u64> {
    let text = core::str::from_utf8(content).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_millis_are_converted() {
        assert_eq!([2, 1024, 262_144, 0].map(weight_of_shares), [1, 39, 10_000, 1]);
        assert_eq!(quota_of_millis(500), "50000 100000");
        assert_eq!(quota_of_millis(2000), "200000 100000");
        assert_eq!(quota_of_millis(1), "1000 100000");
    }

    #[test]
    fn numbers_are_found_in_their_files() {
        assert_eq!(value_of(b"usage_usec 1234\nuser_usec 1000\n", "usage_usec "), Some(1234));
        assert_eq!(value_of(b"oom 2\noom_kill 1\n", "oom_kill "), Some(1));
        assert_eq!(value_of(b"nothing", "usage_usec "), None);
    }
}
