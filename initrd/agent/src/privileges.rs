//! What a process of an app may do: capabilities, groups, user, system calls. [`Privileges`] is all of
//! it, for whatever starts a program in an app.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::AppSpec;
use crate::users::Identity;
use crate::{base64, sys};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

/// In the order of their numbers (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The set that a list of `CAP_…` names means.
pub fn parse_capabilities(names: &[String]) -> Outcome<u64> {
    let mut set = 0;
    for name in names {
        let number = name
            .strip_prefix("CAP_")
            .and_then(|bare| NAMES.iter().position(|known| *known == bare));
        match number {
            Some(number) => set |= 1 << number,
            None => {
                let message = format!("there is no capability {name:?}");
                return Err(Failure::new(Kind::InvalidSpec, message));
            }
        }
    }
    Ok(set)
}

/// Most instructions of a filter, the kernel's limit.
const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// The filter that a spec's base64 text means.
pub fn parse_filter(text: Option<&str>) -> Outcome<Option<Vec<u8>>> {
    let Some(text) = text else { return Ok(None) };
    let limit_bytes = FILTER_INSTRUCTIONS_MAX * sys::FILTER_INSTRUCTION_BYTES;
    base64::decode(text)
        .filter(|program| !program.is_empty() && program.len() <= limit_bytes)
        .filter(|program| program.len() % sys::FILTER_INSTRUCTION_BYTES == 0)
        .map(Some)
        .ok_or_else(|| Failure::new(Kind::InvalidSpec, "seccomp is not a filter in base64"))
}

/// Needed to install a filter without `no_new_privs`.
const SYS_ADMIN: u64 = 1 << 21;

/// What a process of an app keeps of the agent's power.
#[derive(Debug)]
pub struct Privileges<'a> {
    identity: &'a Identity,
    supplementary_gids: &'a [u32],
    capabilities: u64,
    no_new_privileges: bool,
    filter: Option<Vec<u8>>,
}

impl<'a> Privileges<'a> {
    /// Those of an app's processes that run as `identity`.
    pub fn of(app: &'a AppSpec, identity: &'a Identity) -> Outcome<Privileges<'a>> {
        let filter = parse_filter(app.seccomp.as_deref())?;
        Ok(Privileges {
            identity,
            supplementary_gids: &app.supplementary_gids,
            capabilities: parse_capabilities(&app.capabilities)?,
            // As rkt: who is not root could otherwise turn a filter against a setuid program.
            no_new_privileges: app.no_new_privileges || (filter.is_some() && identity.uid != 0),
            filter,
        })
    }

    /// None at all, for a program of the agent's own that needs none.
    pub fn none(identity: &'a Identity) -> Privileges<'a> {
        Privileges {
            identity,
            supplementary_gids: &[],
            capabilities: 0,
            no_new_privileges: true,
            filter: None,
        }
    }

    /// Gives up everything else, for good. The filter is not in place yet, and root keeps what it
    /// takes to install one until it executes a program, which the bounding set then limits.
    pub fn keep_only(&self) -> Outcome<()> {
        let allowed = self.capabilities;
        limit_bounding_set(allowed).trying(Kind::Internal, "limit the capability bounding set")?;
        let groups: Vec<Gid> =
            self.supplementary_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups).trying(Kind::Internal, "set the supplementary groups")?;
        let (uid, gid) = (Uid::from_raw(self.identity.uid), Gid::from_raw(self.identity.gid));
        set_thread_res_gid(gid, gid, gid)
            .trying(Kind::Internal, format_args!("become group {}", self.identity.gid))?;
        set_thread_res_uid(uid, uid, uid)
            .trying(Kind::Internal, format_args!("become user {}", self.identity.uid))?;
        // Leaving root empties the effective and permitted sets of another user by itself; the
        // inheritable set stays empty for all, since it would survive into files marked with it.
        let kept = match (self.identity.uid, &self.filter) {
            (0, Some(_)) if !self.no_new_privileges => allowed | SYS_ADMIN,
            (0, _) => allowed,
            _ => 0,
        };
        let kept = CapabilitySet::from_bits_retain(kept);
        let inheritable = CapabilitySet::empty();
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable };
        set_capabilities(None, sets).trying(Kind::Internal, "set the capabilities")?;
        clear_ambient_capability_set().trying(Kind::Internal, "clear the ambient capabilities")?;
        if self.no_new_privileges {
            set_no_new_privs(true).trying(Kind::Internal, "set no_new_privs")?;
        }
        Ok(())
    }

    /// Installs the filter: afterwards only the calls it allows are left, execve among them as a rule.
    pub fn filter_calls(&self) -> Outcome<()> {
        match &self.filter {
            Some(program) => {
                sys::install_filter(program).trying(Kind::Internal, "install the seccomp filter")
            }
            None => Ok(()),
        }
    }
}

fn limit_bounding_set(allowed: u64) -> Result<(), Errno> {
    for number in 0..u64::BITS {
        if allowed & (1 << number) != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Beyond the last capability this kernel knows.
            Err(Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_have_the_kernels_numbers() {
        let set = |name: &str| parse_capabilities(&[name.to_string()]);
        assert_eq!(set("CAP_CHOWN").unwrap(), 1);
        assert_eq!(set("CAP_SYS_ADMIN").unwrap(), 1 << 21);
        assert_eq!(set("CAP_CHECKPOINT_RESTORE").unwrap(), 1 << 40);
        for bad in ["CHOWN", "CAP_", "CAP_NONE", "cap_chown"] {
            assert_eq!(set(bad).unwrap_err().kind, Kind::InvalidSpec, "{bad}");
        }
    }

    #[test]
    fn filters_are_whole_instructions() {
        assert_eq!(parse_filter(None).unwrap(), None);
        assert_eq!(parse_filter(Some("AAAAAAAAAAA=")).unwrap(), Some(std::vec![0; 8]));
        let long = base64::encode(&std::vec![0; 8 * 4097]);
        for bad in ["", "AAAA", "?", &long] {
            assert_eq!(parse_filter(Some(bad)).unwrap_err().kind, Kind::InvalidSpec);
        }
    }
}
