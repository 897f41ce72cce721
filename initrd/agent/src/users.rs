//! Users and groups as the manifest writes them, looked up in the app's own root.

use crate::failure::{Failure, Kind, Outcome};
use crate::{errno, files};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fs::{Stat, stat};

/// Largest `/etc/passwd` or `/etc/group` that is read.
const DATABASE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An account of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are passwd(5)'s")]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

/// Whom an app runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// The account, when the user was given as a name that has one.
    pub account: Option<Account>,
}

/// Finds a name in the content of a passwd file.
pub fn find_account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, _, home, shell] = fields[..] else { return None };
        if found != name {
            return None;
        }
        Some(Account {
            name: name.to_string(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.to_string(),
            shell: shell.to_string(),
        })
    })
}

/// Finds a name in the content of a group file.
pub fn find_group(group: &str, name: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

/// A number other than the one that means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

fn database(path: &str) -> String {
    // A missing file has no names, which the caller reports with the name it looked for.
    let content = files::read_regular(path, DATABASE_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&content).into_owned()
}

fn owner_of(path: &str, kind: Kind, what: &str) -> Outcome<Stat> {
    stat(path).map_err(|reason| {
        let reason = errno::describe(reason);
        Failure::new(kind, format!("{what} is the owner of {path} in the image: {reason}"))
    })
}

/// Resolves both inside the current root.
pub fn resolve(user: &str, group: &str) -> Outcome<Identity> {
    let (uid, account) = resolve_user(user)?;
    let gid = match (resolve_group(group), &account) {
        (Ok(gid), _) => gid,
        // A Docker image that names a user means the user's own group, whatever its name; here it
        // is written as the group of the user's name.
        (Err(_), Some(account)) if group == user => account.gid,
        (Err(failure), _) => return Err(failure),
    };
    Ok(Identity { uid, gid, account })
}

fn resolve_user(user: &str) -> Outcome<(u32, Option<Account>)> {
    if let Some(uid) = number(user) {
        return Ok((uid, None));
    }
    if user.starts_with('/') {
        return Ok((owner_of(user, Kind::NoSuchUser, "user")?.st_uid, None));
    }
    match find_account(&database("/etc/passwd"), user) {
        Some(account) => Ok((account.uid, Some(account))),
        // Images of a single program often have no passwd file, and yet root is user 0.
        None if user == "root" => Ok((0, None)),
        None => {
            let message = format!("there is no user {user:?} in the image's /etc/passwd");
            Err(Failure::new(Kind::NoSuchUser, message))
        }
    }
}

fn resolve_group(group: &str) -> Outcome<u32> {
    if let Some(gid) = number(group) {
        return Ok(gid);
    }
    if group.starts_with('/') {
        return Ok(owner_of(group, Kind::NoSuchGroup, "group")?.st_gid);
    }
    match find_group(&database("/etc/group"), group) {
        Some(gid) => Ok(gid),
        None if group == "root" => Ok(0),
        None => {
            let message = format!("there is no group {group:?} in the image's /etc/group");
            Err(Failure::new(Kind::NoSuchGroup, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nredis:x:101:103::/var/lib/redis:/usr/sbin/nologin\nbad:x:y:1:::\n";

    #[test]
    fn accounts_are_found() {
        let redis = find_account(PASSWD, "redis").unwrap();
        assert_eq!((redis.uid, redis.gid, redis.home.as_str()), (101, 103, "/var/lib/redis"));
        for name in ["broken", "bad", "red", ""] {
            assert_eq!(find_account(PASSWD, name), None, "{name}");
        }
    }

    #[test]
    fn groups_are_found() {
        let group = "root:x:0:\ntty:x:5:a,b\nbad\nworse:x:\n";
        assert_eq!(find_group(group, "tty"), Some(5));
        assert_eq!(find_group(group, "bad"), None);
        assert_eq!(find_group(group, "worse"), None);
    }

    #[test]
    fn numbers_and_paths_need_no_database() {
        let identity = resolve("12", "34").unwrap();
        assert_eq!((identity.uid, identity.gid, identity.account), (12, 34, None));
        assert_eq!(resolve("/", "/").unwrap().uid, 0);
        assert_eq!(resolve("/no/such", "0").unwrap_err().kind, Kind::NoSuchUser);
        assert_eq!(resolve("no-such-user", "0").unwrap_err().kind, Kind::NoSuchUser);
        assert_eq!(resolve("0", "no-such-group").unwrap_err().kind, Kind::NoSuchGroup);
        assert!(resolve("4294967295", "0").is_err());
    }
}
