//! The documents the host sends: what a pod and an app are. Unknown fields are refused: a limit or a
//! restriction that this agent does not know must not be dropped in silence.

#![expect(missing_docs, reason = "docs/protocol.md defines every field")]

use alloc::string::String;
use alloc::vec::Vec;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    pub protocol: u32,
    pub uuid: String,
    pub hostname: String,
    pub realtime_ns: Option<u64>,
    pub entropy: Option<String>,
    pub resolv_conf: Option<String>,
    pub hosts: Option<String>,
    pub network: Option<Network>,
    #[serde(default)]
    pub sysctls: Vec<String>,
    #[serde(default)]
    pub disks: Vec<Disk>,
    pub share: Option<Share>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    pub on_failure: OnFailure,
    pub apps: Vec<AppSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub routes: Vec<Route>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub mac: String,
    pub name: String,
    pub mtu: Option<u32>,
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether the networks of its addresses are neighbours on the link.
    #[serde(default = "yes")]
    pub prefix_routes: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub destination: String,
    pub gateway: Option<String>,
    pub interface: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    pub serial: String,
    pub filesystem: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub transport: Transport,
    pub tag: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Transport {
    #[serde(rename = "virtiofs")]
    Virtiofs,
    #[serde(rename = "9p")]
    NineP,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    pub name: String,
    pub kind: VolumeKind,
    #[serde(default)]
    pub read_only: bool,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(default)]
    pub initialize: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeKind {
    Host,
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Stop,
    Continue,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    pub name: String,
    pub disk: String,
    /// The folder at the top of the disk that is the app's root.
    pub root: String,
    pub argv: Vec<String>,
    #[serde(default)]
    pub environment: Vec<String>,
    pub user: String,
    pub group: String,
    #[serde(default)]
    pub supplementary_gids: Vec<u32>,
    pub working_directory: String,
    #[serde(default)]
    pub read_only_root: bool,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub no_new_privileges: bool,
    pub seccomp: Option<String>,
    pub protect_paths: bool,
    #[serde(default)]
    pub limits: Limits,
    pub oom_score_adj: Option<i32>,
    #[serde(default)]
    pub pre_start: Vec<Vec<String>>,
    #[serde(default)]
    pub post_stop: Vec<Vec<String>>,
    pub stdin: StreamMode,
    pub stdout: StreamMode,
    pub stderr: StreamMode,
    pub terminal: Option<Terminal>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    pub protocol: u32,
    pub name: String,
    pub disk: String,
    pub root: String,
    pub disks: Vec<Disk>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    pub volume: String,
    pub path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub memory_bytes: Option<u64>,
    pub cpu_millis: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub processes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamMode {
    Null,
    Log,
    Stream,
    Tty,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
    pub name: Option<String>,
}

impl AppSpec {
    /// Whether any of the three streams is the pseudo-terminal.
    pub fn uses_terminal(&self) -> bool {
        [self.stdin, self.stdout, self.stderr].contains(&StreamMode::Tty)
    }
}
