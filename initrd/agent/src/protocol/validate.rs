//! Checks on what the host sent that the types cannot express. The host is trusted; the checks keep
//! its mistakes from turning into paths and mount options that mean something else.

use super::VERSION;
use super::spec::{AppSpec, ExportSpec, PodSpec, StreamMode, VolumeKind};
use crate::failure::{Failure, Kind, Outcome};
use alloc::format;
use alloc::string::String;

/// Longest name of an app, volume, disk or interface.
const NAME_BYTES_MAX: usize = 64;
const APPS_MAX: usize = 256;

fn invalid<T>(message: String) -> Outcome<T> {
    Err(Failure::new(Kind::InvalidSpec, message))
}

/// A name that is safe as one component of a path and inside mount options.
pub fn name(what: &str, value: &str) -> Outcome<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = !value.is_empty()
        && value.len() <= NAME_BYTES_MAX
        && !value.starts_with('.')
        && value.bytes().all(allowed);
    if good { Ok(()) } else { invalid(format!("{what} {value:?} is not a valid name")) }
}

fn absolute(what: &str, path: &str) -> Outcome<()> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(());
    }
    invalid(format!("{what} {path:?} is not an absolute path"))
}

fn version(protocol: u32) -> Outcome<()> {
    if protocol == VERSION {
        return Ok(());
    }
    invalid(format!("protocol {protocol} is not supported, only {VERSION}"))
}

/// Checks what is to be exported.
pub fn export(spec: &ExportSpec) -> Outcome<()> {
    version(spec.protocol)?;
    name("app", &spec.name)?;
    name("disk", &spec.disk)?;
    name("root folder", &spec.root)?;
    spec.disks.iter().try_for_each(|disk| name("disk", &disk.serial))
}

/// Checks a pod and all its apps.
pub fn pod(spec: &PodSpec) -> Outcome<()> {
    version(spec.protocol)?;
    if spec.hostname.is_empty() || spec.hostname.len() > NAME_BYTES_MAX {
        return invalid(format!("host name {:?} is empty or longer than 64 bytes", spec.hostname));
    }
    if spec.apps.len() > APPS_MAX {
        return invalid(format!("{} apps are more than {APPS_MAX}", spec.apps.len()));
    }
    for disk in &spec.disks {
        name("disk", &disk.serial)?;
    }
    for sysctl in &spec.sysctls {
        let parameter = sysctl.split_once('=').map_or("", |(parameter, _)| parameter);
        for part in parameter.split('.') {
            name("part of a sysctl's name", part)?;
        }
    }
    for volume in &spec.volumes {
        name("volume", &volume.name)?;
        if volume.kind == VolumeKind::Host && spec.share.is_none() {
            return invalid(format!("host volume {} but the pod has no share", volume.name));
        }
    }
    for (index, spec_of_app) in spec.apps.iter().enumerate() {
        app(spec_of_app)?;
        if spec.apps.iter().take(index).any(|earlier| earlier.name == spec_of_app.name) {
            return invalid(format!("two apps are named {}", spec_of_app.name));
        }
    }
    Ok(())
}

/// Checks one app.
pub fn app(spec: &AppSpec) -> Outcome<()> {
    name("app", &spec.name)?;
    name("disk", &spec.disk)?;
    name("root folder", &spec.root)?;
    let commands = core::iter::once(&spec.argv).chain(&spec.pre_start).chain(&spec.post_stop);
    for command in commands {
        if command.first().is_none_or(String::is_empty) {
            return invalid(format!("app {} has an empty command", spec.name));
        }
        if command.iter().any(|argument| argument.contains('\0')) {
            return invalid(format!("app {}: an argument contains a zero byte", spec.name));
        }
    }
    if let Some(bad) =
        spec.environment.iter().find(|pair| !pair.contains('=') || pair.contains('\0'))
    {
        return invalid(format!("app {}: environment {bad:?} is not NAME=VALUE", spec.name));
    }
    absolute("working directory", &spec.working_directory)?;
    for mount in &spec.mounts {
        absolute("mount path", &mount.path)?;
    }
    if spec.stdin == StreamMode::Log {
        return invalid(format!("app {}: stdin cannot be in mode log", spec.name));
    }
    if spec.uses_terminal() && spec.terminal.is_none() {
        return invalid(format!("app {} uses a tty but gives no terminal", spec.name));
    }
    let capabilities = crate::privileges::parse_capabilities(&spec.capabilities).map(|_| ());
    let filter = crate::privileges::parse_filter(spec.seccomp.as_deref()).map(|_| ());
    match capabilities.and(filter) {
        Ok(()) => Ok(()),
        Err(failure) => invalid(format!("app {}: {}", spec.name, failure.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_path_component() {
        assert!(name("app", "redis-1.x_y").is_ok());
        for bad in ["", ".", "..", ".x", "a/b", "a,b", "a b", "a:b", "a\0"] {
            assert!(name("app", bad).is_err(), "{bad:?}");
        }
        assert!(name("app", &"a".repeat(65)).is_err());
    }
}
