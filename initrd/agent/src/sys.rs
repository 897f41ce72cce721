//! System calls that rustix does not offer without its hidden run-time module: making a process,
//! becoming a program, ending, and memory for the allocator.

use core::arch::asm;
use core::ffi::CStr;
use core::fmt;
use core::sync::atomic::{AtomicI32, Ordering};
use linux_raw_sys::general as raw;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io;
use rustix::process::Pid;

/// # Safety
/// The arguments must be what the call of that number asks for.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: u32, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the clobbers are the kernel's.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as usize => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _, options(nostack)
        );
    }
    result
}

/// # Safety
/// The arguments must be what the call of that number asks for.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: u32, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments.
    unsafe {
        asm!(
            "svc 0", in("x8") number as usize,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3],
            in("x4") arguments[4], in("x5") arguments[5], options(nostack)
        );
    }
    result
}

fn checked(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Errno::from_raw_os_error(-result as i32)) } else { Ok(result as usize) }
}

/// A child process, watched through its pidfd so that its number cannot be mistaken.
#[derive(Debug)]
pub struct Child {
    /// Its number in the agent's PID namespace.
    pub pid: Pid,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
}

/// Which side of [`fork`] one is on.
#[derive(Debug)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the agent.
    Parent(Child),
}

/// New mount and PID namespaces for the child of [`fork`].
pub const NEW_MOUNT_AND_PID: u64 = (raw::CLONE_NEWNS | raw::CLONE_NEWPID) as u64;

#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Duplicates the process (`clone3`), with `namespaces` new to the child, born inside `cgroup` when
/// given: that needs none of the locks that moving a process between cgroups takes.
pub fn fork(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: i32 = -1;
    let mut arguments = CloneArguments {
        flags: namespaces | u64::from(raw::CLONE_PIDFD),
        pidfd: &raw mut pidfd as u64,
        exit_signal: u64::from(raw::SIGCHLD),
        ..CloneArguments::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= raw::CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let size = size_of::<CloneArguments>();
    // SAFETY: without CLONE_VM the child has its own copy of this stack and goes on from here; the
    // agent has one thread, so no lock can be held by another.
    let result =
        unsafe { syscall(raw::__NR_clone3, [&raw const arguments as usize, size, 0, 0, 0, 0]) };
    match Pid::from_raw(checked(result)? as i32) {
        None => Ok(Forked::Child),
        Some(pid) => {
            // SAFETY: the kernel has just written a descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Child { pid, pidfd }))
        }
    }
}

/// Becomes the program at `path`; returns only on failure. Both lists end with a null pointer.
pub fn execve(path: &CStr, argv: &[*const u8], environment: &[*const u8]) -> io::Errno {
    debug_assert!(argv.last().is_some_and(|end| end.is_null()));
    debug_assert!(environment.last().is_some_and(|end| end.is_null()));
    let arguments =
        [path.as_ptr() as usize, argv.as_ptr() as usize, environment.as_ptr() as usize, 0, 0, 0];
    // SAFETY: the path ends with a zero, the lists with a null pointer to their strings.
    let result = unsafe { syscall(raw::__NR_execve, arguments) };
    io::Errno::from_raw_os_error(-result as i32)
}

/// As [`execve`], the program being an open file: it needs no path, and no `/proc` to read.
pub fn execute_descriptor(
    program: &OwnedFd,
    argv: &[*const u8],
    environment: &[*const u8],
) -> io::Errno {
    debug_assert!(argv.last().is_some_and(|end| end.is_null()));
    debug_assert!(environment.last().is_some_and(|end| end.is_null()));
    let (descriptor, path) = (program.as_raw_fd() as usize, c"".as_ptr() as usize);
    let lists = [argv.as_ptr() as usize, environment.as_ptr() as usize];
    let flags = raw::AT_EMPTY_PATH as usize;
    // SAFETY: the path is empty as the flag asks, the lists end with a null pointer.
    let result =
        unsafe { syscall(raw::__NR_execveat, [descriptor, path, lists[0], lists[1], flags, 0]) };
    io::Errno::from_raw_os_error(-result as i32)
}

/// Duplicates a descriptor to a number, whatever is there now, to stay open across exec.
pub fn place(descriptor: &OwnedFd, number: i32) -> io::Result<()> {
    // SAFETY: for children about to exec, which know what the numbers are.
    let result = unsafe {
        syscall(raw::__NR_dup3, [descriptor.as_raw_fd() as usize, number as usize, 0, 0, 0, 0])
    };
    checked(result).map(|_| ())
}

/// Ends the process, by a trap if an app's filter keeps it from ending in order.
pub fn exit(status: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { syscall(raw::__NR_exit_group, [status as usize, 0, 0, 0, 0, 0]) };
    loop {
        // SAFETY: an instruction that has no effect but its exception.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            asm!("ud2")
        };
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            asm!("brk #1")
        };
    }
}

/// Bytes of one instruction of a filter (`struct sock_filter`).
pub const FILTER_INSTRUCTION_BYTES: usize = 8;

/// Of `linux/seccomp.h`, which linux-raw-sys leaves out.
const SECCOMP_SET_MODE_FILTER: usize = 1;

/// What the kernel takes as a filter (`struct sock_fprog`).
#[repr(C)]
struct FilterProgram {
    instructions: u16,
    start: *const u8,
}

/// Lets the kernel judge every further system call of this process by `program`.
pub fn install_filter(program: &[u8]) -> io::Result<()> {
    let instructions =
        u16::try_from(program.len() / FILTER_INSTRUCTION_BYTES).map_err(|_| io::Errno::INVAL)?;
    let program = FilterProgram { instructions, start: program.as_ptr() };
    let operation = SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads that many instructions, copies and checks them.
    let result =
        unsafe { syscall(raw::__NR_seccomp, [operation, 0, &raw const program as usize, 0, 0, 0]) };
    checked(result).map(|_| ())
}

/// A number that a process and those it forks see alike, for a child that can no longer make calls.
#[derive(Debug)]
pub struct SharedWord(*mut AtomicI32);

/// The least that can be mapped.
const PAGE_BYTES: usize = 4096;

impl SharedWord {
    /// A word that is 0.
    pub fn new() -> io::Result<SharedWord> {
        let word = map(PAGE_BYTES, raw::MAP_SHARED)?;
        Ok(SharedWord(word.cast()))
    }

    /// Changes it.
    pub fn set(&self, value: i32) {
        // SAFETY: the mapping lives as long as this value, and any bytes are a number.
        unsafe { &*self.0 }.store(value, Ordering::Release);
    }

    /// Reads it.
    pub fn get(&self) -> i32 {
        // SAFETY: as above.
        unsafe { &*self.0 }.load(Ordering::Acquire)
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and references to it end with their calls.
        unsafe { unmap_memory(self.0.cast(), PAGE_BYTES) };
    }
}

/// Of `linux/close_range.h`, which linux-raw-sys leaves out.
const CLOSE_RANGE_CLOEXEC: usize = 4;

/// Closes every descriptor from `first` on, or only marks them close-on-exec.
pub fn close_from(first: u32, only_on_exec: bool) {
    let flags = if only_on_exec { CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the callers are children about to exec or to sleep for ever, and use none of them.
    unsafe { syscall(raw::__NR_close_range, [first as usize, u32::MAX as usize, flags, 0, 0, 0]) };
}

/// Makes the kernel collect this process's children by itself (SIGCHLD ignored).
pub fn ignore_children() {
    let ignore: [usize; 4] = [1, 0, 0, 0];
    let signal = raw::SIGCHLD as usize;
    // SAFETY: a kernel sigaction whose handler is SIG_IGN; the mask is 8 bytes.
    unsafe {
        syscall(raw::__NR_rt_sigaction, [signal, &raw const ignore as usize, 0, 8, 0, 0]);
    }
}

/// Sleeps until a signal, which for the caller's purpose never comes.
pub fn pause() {
    // SAFETY: no descriptors, no timeout, no mask.
    unsafe { syscall(raw::__NR_ppoll, [0, 0, 0, 0, 0, 0]) };
}

/// Nanoseconds on a clock; a raw call since setting up the vDSO costs more than a boot ever asks.
pub fn clock_ns(clock: Clock) -> u64 {
    let mut time = [0_i64; 2];
    // SAFETY: the kernel writes a timespec, two 64-bit numbers.
    unsafe {
        syscall(raw::__NR_clock_gettime, [clock as usize, &raw mut time as usize, 0, 0, 0, 0]);
    }
    (time[0] as u64).wrapping_mul(1_000_000_000).wrapping_add(time[1] as u64)
}

/// The clocks the agent reads.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// Wall clock.
    Real = 0,
    /// Time since boot, suspension included.
    Boot = 7,
}

/// Anonymous memory from the kernel, zeroed.
pub fn map_memory(bytes: usize) -> Option<*mut u8> {
    map(bytes, raw::MAP_PRIVATE).ok()
}

fn map(bytes: usize, kind: u32) -> io::Result<*mut u8> {
    let protection = (raw::PROT_READ | raw::PROT_WRITE) as usize;
    let flags = (kind | raw::MAP_ANONYMOUS) as usize;
    // SAFETY: a fresh anonymous mapping touches nothing that exists.
    let result = unsafe { syscall(raw::__NR_mmap, [0, bytes, protection, flags, usize::MAX, 0]) };
    checked(result).map(|address| address as *mut u8)
}

/// Gives memory back.
///
/// # Safety
/// The area must come from [`map_memory`] and not be used again.
pub unsafe fn unmap_memory(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { syscall(raw::__NR_munmap, [start as usize, bytes, 0, 0, 0, 0]) };
}

struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: descriptor 2 is the console in the agent and its children.
        let console = unsafe { BorrowedFd::borrow_raw(2) };
        io::write(console, text.as_bytes()).map(|_| ()).map_err(|_| fmt::Error)
    }
}

/// Writes to the guest's console, where the host looks when something broke.
pub fn console(message: fmt::Arguments<'_>) {
    // A console that cannot be written to leaves nobody to tell.
    let _ = fmt::Write::write_fmt(&mut Console, message);
}
