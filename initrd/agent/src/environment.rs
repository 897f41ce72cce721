//! The environment an app sees: the manifest's, completed as docs/protocol.md says.

use crate::users::Account;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// PATH of an app that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The value of a variable.
pub fn value_of<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// The variables, those of `given` in place of others of the same name.
pub fn override_with(own: &[String], given: &[String]) -> Vec<String> {
    let name_of = |pair: &String| String::from(pair.split('=').next().unwrap_or_default());
    let kept = own.iter().filter(|pair| value_of(given, &name_of(pair)).is_none());
    kept.chain(given).cloned().collect()
}

/// Adds what is missing; `terminal` is the TERM of an app with a pseudo-terminal.
pub fn complete(
    given: &[String],
    account: Option<&Account>,
    terminal: Option<&str>,
) -> Vec<String> {
    let (home, name, shell) = match account {
        Some(account) => (&*account.home, &*account.name, &*account.shell),
        None => ("/root", "root", "/bin/sh"),
    };
    let defaults = [
        ("PATH", Some(DEFAULT_PATH)),
        ("HOME", Some(home)),
        ("USER", Some(name)),
        ("LOGNAME", Some(name)),
        ("SHELL", Some(shell)),
        ("TERM", terminal),
    ];
    let mut environment = given.to_vec();
    for (variable, value) in defaults {
        if let (None, Some(value)) = (value_of(given, variable), value) {
            environment.push(format!("{variable}={value}"));
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_given_variable_takes_its_namesakes_place() {
        let own = ["A=1".to_string(), "AB=2".to_string(), "C=3".to_string()];
        let given = ["A=x=y".to_string(), "D=4".to_string()];
        assert_eq!(override_with(&own, &given), ["AB=2", "C=3", "A=x=y", "D=4"]);
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let given = ["PATH=/bin".to_string(), "HOMELAND=x".to_string()];
        let account = Account {
            name: "redis".into(),
            uid: 1,
            gid: 1,
            home: "/data".into(),
            shell: "/bin/false".into(),
        };
        let environment = complete(&given, Some(&account), Some("xterm"));
        let expected = [
            "PATH=/bin",
            "HOMELAND=x",
            "HOME=/data",
            "USER=redis",
            "LOGNAME=redis",
            "SHELL=/bin/false",
            "TERM=xterm",
        ];
        assert_eq!(environment, expected);
        let root = complete(&[], None, None);
        assert_eq!(value_of(&root, "HOME"), Some("/root"));
        assert_eq!(value_of(&root, "TERM"), None);
    }
}
