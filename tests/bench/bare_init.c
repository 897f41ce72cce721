/* The init of a bare virtual machine: it resets at once, which ends a QEMU started with -no-reboot.
 * What a pod's start is compared with: nothing can be quicker on the same machine and kernel. */
#include <linux/reboot.h>
#include <sys/syscall.h>

void _start(void)
{
    long result;
    register long argument __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_reboot), "D"(LINUX_REBOOT_MAGIC1), "S"(LINUX_REBOOT_MAGIC2),
                       "d"(LINUX_REBOOT_CMD_RESTART), "r"(argument)
                     : "rcx", "r11", "memory");
    for (;;)
        ;
}
