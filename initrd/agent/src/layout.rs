//! Where the agent keeps things in its own root, a tmpfs that no app sees.

/// Mount points of the pod's disks, by serial.
pub const DISKS: &str = "/disks";
/// The writable disk, or a tmpfs without one.
pub const SCRATCH: &str = "/scratch";
/// The share that holds the host volumes.
pub const SHARE: &str = "/share";
/// Files that replace those of the images: hostname, hosts, resolv.conf.
pub const ETC: &str = "/etc";
/// The pod's shared memory, `/dev/shm` of every app.
pub const SHARED_MEMORY: &str = "/shm";
/// Where an app's root is assembled, in its own mount namespace.
pub const ROOT: &str = "/root";
/// The cgroup tree.
pub const CGROUPS: &str = "/sys/fs/cgroup";
