//! Link flags of the agent binary: no C library, no start-up files, no dynamic loader.
//!
//! They are here and not in `.cargo/config.toml` so that they reach only the agent and neither the
//! unit tests nor other build scripts, whatever directory cargo runs from.

fn main() {
    for flag in ["-nostartfiles", "-nodefaultlibs", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
    for flag in ["-z,noexecstack", "-z,relro", "--build-id=none", "--gc-sections"] {
        println!("cargo:rustc-link-arg-bins=-Wl,{flag}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
