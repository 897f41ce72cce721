//! What the guest is as a whole before any app: its random state, its clock, its names, its network.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::protocol::spec::PodSpec;
use crate::{base64, files, layout, network};
use alloc::format;
use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::system::sethostname;
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_settime};

const ENTROPY_BYTES: usize = 64;

/// Sets entropy, clock, names and network as the spec says.
pub fn set_up(spec: &PodSpec) -> Outcome<()> {
    if let Some(entropy) = &spec.entropy {
        credit_entropy(entropy)?;
    }
    if let Some(realtime_ns) = spec.realtime_ns {
        let time = Timespec {
            tv_sec: (realtime_ns / 1_000_000_000) as i64,
            tv_nsec: (realtime_ns % 1_000_000_000) as i64,
        };
        clock_settime(ClockId::Realtime, time).trying(Kind::Internal, "set the clock")?;
    }
    sethostname(spec.hostname.as_bytes()).trying(Kind::Internal, "set the host name")?;
    let minimal_hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{}\n", spec.hostname);
    let contents = [
        ("hostname", Some(format!("{}\n", spec.hostname))),
        ("machine-id", Some(format!("{}\n", spec.uuid.replace('-', "")))),
        ("hosts", Some(spec.hosts.clone().unwrap_or(minimal_hosts))),
        ("resolv.conf", spec.resolv_conf.clone()),
    ];
    for (name, content) in contents {
        if let Some(content) = content {
            files::create(format!("{}/{name}", layout::ETC), content.as_bytes())
                .trying(Kind::Internal, format_args!("write the pod's {name}"))?;
        }
    }
    network::set_up(spec.network.as_ref())?;
    spec.sysctls.iter().try_for_each(|sysctl| set_sysctl(sysctl))
}

/// Sets a parameter of the kernel, given as `NAME=VALUE`.
fn set_sysctl(sysctl: &str) -> Outcome<()> {
    let (name, value) = sysctl.split_once('=').unwrap_or_default();
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    files::write(path, value.as_bytes())
        .trying(Kind::InvalidSpec, format_args!("set sysctl {name} to {value:?}"))
}

/// What `RNDADDENTROPY` takes: bits credited, bytes, the bytes.
#[repr(C)]
struct Entropy {
    bits: i32,
    bytes: i32,
    content: [u8; ENTROPY_BYTES],
}

/// Mixes the host's random bytes in, so that two clones of one saved guest differ at once.
fn credit_entropy(text: &str) -> Outcome<()> {
    const ADD_ENTROPY: rustix::ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 3);
    let content = base64::decode(text).and_then(|bytes| bytes.try_into().ok());
    let Some(content) = content else {
        let message = format!("entropy is not {ENTROPY_BYTES} bytes in base64");
        return Err(Failure::new(Kind::InvalidSpec, message));
    };
    let (bits, bytes) = (ENTROPY_BYTES as i32 * 8, ENTROPY_BYTES as i32);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    open("/dev/urandom", flags, Mode::empty())
        .and_then(|device| {
            // SAFETY: the call reads the structure it is given, whose length its second field tells.
            unsafe {
                let entropy = Entropy { bits, bytes, content };
                ioctl(device, Setter::<ADD_ENTROPY, Entropy>::new(entropy))
            }
        })
        .trying(Kind::Internal, "add entropy")
}
