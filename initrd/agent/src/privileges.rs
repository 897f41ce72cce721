//! Giving privileges up: capabilities, groups, user.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::users::Identity;
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

/// Becomes `identity` with at most `allowed` capabilities, for good.
pub fn drop_privileges(
    identity: &Identity,
    supplementary_gids: &[u32],
    allowed: u64,
    no_new_privileges: bool,
) -> Outcome<()> {
    limit_bounding_set(allowed).trying(Kind::Internal, "limit the capability bounding set")?;
    let groups: Vec<Gid> = supplementary_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).trying(Kind::Internal, "set the supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_res_gid(gid, gid, gid)
        .trying(Kind::Internal, format_args!("become group {}", identity.gid))?;
    set_thread_res_uid(uid, uid, uid)
        .trying(Kind::Internal, format_args!("become user {}", identity.uid))?;
    // Leaving root empties the effective and permitted sets of another user by itself; the
    // inheritable set stays empty for all, since it would survive into files marked with it.
    let kept = if identity.uid == 0 { allowed } else { 0 };
    let kept = CapabilitySet::from_bits_retain(kept);
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).trying(Kind::Internal, "set the capabilities")?;
    clear_ambient_capability_set().trying(Kind::Internal, "clear the ambient capabilities")?;
    if no_new_privileges {
        set_no_new_privs(true).trying(Kind::Internal, "set no_new_privs")?;
    }
    Ok(())
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
}
