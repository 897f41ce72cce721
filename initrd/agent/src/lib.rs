//! The kvmrkt guest agent: PID 1 of a pod's virtual machine.
//!
//! The contract with the host is `docs/protocol.md`. The agent knows neither rkt nor App Container
//! images: the host sends one explicit document and the agent does what it says. It has one thread
//! and one epoll loop; `event_loop` turns events into calls of `pod`, which owns the `app`s.

#![cfg_attr(not(test), no_std)]
#![deny(warnings)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod additions;
pub mod app;
pub mod base64;
pub mod beneath;
pub mod cgroup;
pub mod channels;
pub mod control;
pub mod copy;
pub mod devices;
pub mod diagnosis;
pub mod disks;
pub mod early;
pub mod environment;
pub mod errno;
pub mod event_loop;
pub mod export;
pub mod failure;
pub mod files;
pub mod guest;
pub mod heap;
pub mod layout;
pub mod lines;
pub mod log_port;
pub mod netlink;
pub mod network;
pub mod pod;
pub mod poll;
pub mod port;
pub mod ports;
pub mod power;
pub mod privileges;
pub mod process;
pub mod protect;
pub mod protocol;
pub mod relay;
pub mod report;
pub mod requests;
pub mod rootfs;
pub mod sandbox;
pub mod sessions;
pub mod ssh;
pub mod sys;
pub mod tar;
pub mod terminal;
pub mod tree;
pub mod users;
pub mod volumes;
