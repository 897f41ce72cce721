//! The SSH server of a pod's virtual machine (docs/protocol.md, "Reaching into a pod").
//!
//! The agent starts it when the host first asks for it, with two descriptors and no privilege at
//! all: the port that the host's clients come through, and a socket to the agent, which starts the
//! programs of the sessions. Started by the agent inside an app, it copies files instead.

#![deny(warnings)]

mod agent;
mod copy;
mod mux;
mod server;
mod session;
mod watched;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

/// Where the agent placed the port.
const PORT: i32 = 3;
/// Where the agent placed its socket.
const SOCKET: i32 = 4;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.is_empty() {
        return copy::main(&words);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("kvmrkt-ssh: {error}");
    ExitCode::FAILURE
}

/// Serves clients until the pod ends.
async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let (port, socket) = (adopt(PORT), adopt(SOCKET));
    let (agent, keys) = agent::Agent::connect(socket).await?;
    let config = server::config(&keys)?;
    mux::serve(port, move |stream| {
        let handler = server::Client::new(agent.clone(), &keys);
        tokio::spawn(server::serve(config.clone(), stream, handler));
    })
    .await?;
    Ok(())
}

/// A descriptor that the agent placed.
#[expect(unsafe_code, reason = "the numbers are the agent's promise")]
fn adopt(number: i32) -> OwnedFd {
    // SAFETY: the agent opened both for this process alone, and each is adopted once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
