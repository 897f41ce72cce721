//! PID 1 of a pod's virtual machine. The kernel starts this file as `/init`.
//!
//! It links neither the Rust standard library nor a C library: every instruction of a boot is paid
//! for under an emulated processor, and a static `std` program alone would be larger than the agent.

// The lint run builds every target for tests too, where this one has nothing to offer.
#![cfg(not(test))]
#![no_std]
#![no_main]
#![deny(warnings)]

mod start;

use agent::event_loop::Agent;
use agent::failure::Outcome;
use agent::{early, ports, power};

#[global_allocator]
static ALLOCATOR: agent::heap::Heap = agent::heap::Heap::new();

/// What the guest does from power-on to power-off.
fn boot() -> Outcome<()> {
    early::mount_filesystems()?;
    early::raise_limits();
    early::hide_memory();
    early::shorten_leases();
    let control = ports::wait_and_open(ports::CONTROL)?;
    let log = ports::wait_and_open(ports::LOG)?;
    let mut agent = Agent::new(control, log)?;
    agent.say_hello();
    let result = agent.run();
    agent.shut_down(result);
    power::reset()
}

fn entry() -> ! {
    if let Err(failure) = boot() {
        panic!("{}", failure.message);
    }
    power::reset()
}
