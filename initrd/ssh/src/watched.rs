//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Has the runtime watch a non-blocking descriptor.
#[expect(unsafe_code, reason = "the runtime has no safe way for a descriptor of our own")]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file as long as it lives, and nobody takes this one
    // out of the AsyncFd.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}
