"""The system calls that nobody in a jail has a use for.

QEMU has a filter of its own (`-sandbox`), which it installs once it is ready; this one holds from
the first instruction, and for whatever runs in QEMU's place.
"""

from __future__ import annotations

import errno

from kvmrkt.stage1.kvm.seccomp.policy import Policy
from kvmrkt.stage1.kvm.seccomp.sets import Call

_NEW_NAMESPACES = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)

_DENIED = (
    # a user namespace gives capabilities back, if only inside
    "unshare", "setns",
    # the root is complete
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "pivot_root", "chroot",
    # large interfaces of the kernel, each with a history
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "keyctl", "add_key", "request_key", "kcmp", "lookup_dcookie",
    "name_to_handle_at", "open_by_handle_at", "fanotify_init", "quotactl", "nfsservctl",
    # other processes' memory
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "process_madvise",
    # the machine itself
    "reboot", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    "swapon", "swapoff", "syslog", "acct", "settimeofday", "clock_settime", "clock_adjtime",
    "adjtimex", "iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "sethostname", "setdomainname",
    "personality", "mbind", "migrate_pages", "move_pages", "set_mempolicy",
)  # fmt: skip


def denied_calls() -> Policy:
    """They fail with EPERM; `clone3`, whose flags a filter cannot see, as if it did not exist."""
    calls = (
        *map(Call, _DENIED),
        *(Call("clone", (flag,), flag) for flag in _NEW_NAMESPACES),
        Call("clone3", errno=errno.ENOSYS),
    )
    return Policy("remove", calls, errno=errno.EPERM)
