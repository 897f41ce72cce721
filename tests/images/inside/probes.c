#include "inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_alg.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A call's result as a probe's. */
static int outcome(long result)
{
    return result == -1 ? errno : 0;
}

static int raw(long number, long a, long b, long c, long d, long e)
{
    return outcome(syscall(number, a, b, c, d, e, 0));
}

static int open_path(const char *path, int flags)
{
    int file = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file == -1)
        return errno;
    close(file);
    return 0;
}

static int write_to(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file == -1)
        return errno;
    return outcome(write(file, text, strlen(text)));
}

/* ENODATA: it is there, and empty. */
static int read_from(const char *path)
{
    char byte;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file == -1)
        return errno;
    ssize_t count = read(file, &byte, 1);
    return count == 0 ? ENODATA : outcome(count);
}

/* ENODATA: it is there, and empty. */
static int list_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL)
        return errno;
    int count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count > 2 ? 0 : ENODATA;
}

/* --- device nodes that root may make, wherever he can write ------------------------------- */

static const char *const WRITABLE[] = {"/tmp", "/dev", "/dev/shm", "/run", "/root", "/"};

static int open_node(mode_t type, unsigned int major_number, unsigned int minor_number)
{
    int worst = ENOENT;
    for (size_t at = 0; at < sizeof WRITABLE / sizeof *WRITABLE; at++) {
        char path[64];
        snprintf(path, sizeof path, "%s/probe-node", WRITABLE[at]);
        if (mknod(path, type | 0600, makedev(major_number, minor_number)) == -1) {
            worst = errno;
            continue;
        }
        int result = open_path(path, O_RDWR);
        if (result != 0)
            result = open_path(path, O_RDONLY);
        unlink(path);
        if (result == 0)
            return 0;
        worst = result;
    }
    return worst;
}

/* Every device of the drivers whose name begins so. */
static int open_nodes_of(mode_t type, const char *driver)
{
    char line[128];
    int result = ENODEV;
    mode_t section = 0;
    FILE *file = fopen("/proc/devices", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        unsigned int number;
        char name[64];
        if (strncmp(line, "Char", 4) == 0)
            section = S_IFCHR;
        else if (strncmp(line, "Block", 5) == 0)
            section = S_IFBLK;
        else if (section == type && sscanf(line, "%u %63s", &number, name) == 2 &&
                 strncmp(name, driver, strlen(driver)) == 0)
            for (unsigned int minor_number = 0; minor_number < 64; minor_number++)
                if ((result = open_node(type, number, minor_number)) == 0)
                    return 0;
    }
    return result;
}

static int node_memory(void) { return open_node(S_IFCHR, 1, 1); }
static int node_kernel_log(void) { return open_node(S_IFCHR, 1, 11); }
static int node_serial(void) { return open_node(S_IFCHR, 4, 64); }
static int node_console(void) { return open_node(S_IFCHR, 5, 1); }
static int node_ports(void) { return open_nodes_of(S_IFCHR, "virtio-portsdev"); }
static int node_disks(void) { return open_nodes_of(S_IFBLK, "virtblk"); }
static int node_null(void) { return open_node(S_IFCHR, 1, 3); }
static int name_kernel_log(void) { return open_path("/dev/kmsg", O_RDONLY); }
static int name_memory(void) { return open_path("/dev/mem", O_RDONLY); }
static int name_port(void) { return open_path("/dev/vport0p1", O_RDWR); }
static int name_disk(void) { return open_path("/dev/vda", O_RDONLY); }
static int name_random_seed(void) { return write_to("/dev/urandom", "x"); }
static int open_terminal_master(void) { return open_path("/dev/ptmx", O_RDWR); }
static int open_tunnel(void) { return open_path("/dev/net/tun", O_RDWR); }

static int make_tunnel(void)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int file = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    return file == -1 ? errno : outcome(ioctl(file, TUNSETIFF, &request));
}

static int add_entropy(void)
{
    struct { int bits, bytes; char content[4]; } pool = {32, 4, "abc"};
    int file = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    return outcome(ioctl(file, _IOW('R', 3, int[2]), &pool));
}

static int type_into_terminal(void)
{
    int file = open("/dev/tty", O_RDWR | O_CLOEXEC);
    return file == -1 ? errno : outcome(ioctl(file, TIOCSTI, "x"));
}

/* --- /proc and /sys ------------------------------------------------------------------------ */

static int proc_kcore(void) { return read_from("/proc/kcore"); }
static int proc_kallsyms(void) { return read_from("/proc/kallsyms"); }
static int proc_keys(void) { return read_from("/proc/keys"); }
static int proc_timers(void) { return read_from("/proc/timer_list"); }
static int proc_config(void) { return read_from("/proc/config.gz"); }
static int proc_pages(void) { return read_from("/proc/kpagecount"); }
static int proc_kernel_log(void) { return read_from("/proc/kmsg"); }
static int proc_sysrq(void) { return write_to("/proc/sysrq-trigger", "h"); }
static int sysctl_core(void) { return write_to("/proc/sys/kernel/core_pattern", "|/tmp/x"); }
static int sysctl_modprobe(void) { return write_to("/proc/sys/kernel/modprobe", "/tmp/x"); }
static int sysctl_sysrq(void) { return write_to("/proc/sys/kernel/sysrq", "1"); }
static int sysctl_memory(void) { return write_to("/proc/sys/vm/overcommit_memory", "1"); }
static int sysctl_panic(void) { return write_to("/proc/sys/vm/panic_on_oom", "1"); }
static int sysctl_ptrace(void) { return write_to("/proc/sys/kernel/yama/ptrace_scope", "0"); }
static int sysctl_forward(void) { return write_to("/proc/sys/net/ipv4/ip_forward", "1"); }
static int sysctl_hostname(void) { return write_to("/proc/sys/kernel/hostname", "x"); }
static int sysctl_files(void) { return write_to("/proc/sys/fs/file-max", "1"); }
static int proc_irq(void) { return write_to("/proc/irq/default_smp_affinity", "1"); }
static int proc_score(void) { return write_to("/proc/self/oom_score_adj", "-1000"); }
static int init_root(void) { return list_folder("/proc/1/root"); }
static int init_files(void) { return list_folder("/proc/1/fd"); }
static int init_memory(void) { return open_path("/proc/1/mem", O_RDWR); }
static int init_environment(void) { return read_from("/proc/1/environ"); }
static int init_namespaces(void) { return open_path("/proc/1/ns/net", O_RDONLY); }
static int sys_firmware(void) { return list_folder("/sys/firmware"); }
static int sys_cgroups(void) { return list_folder("/sys/fs"); }
static int sys_modules(void) { return list_folder("/sys/module"); }
static int sys_power(void) { return list_folder("/sys/power"); }
static int sys_disk(void) { return write_to("/sys/block/vda/queue/read_ahead_kb", "0"); }
static int sys_huge_pages(void)
{
    return write_to("/sys/kernel/mm/transparent_hugepage/enabled", "always");
}
static int sys_unbind(void)
{
    return write_to("/sys/bus/virtio/drivers/virtio_console/unbind", "virtio0");
}

/* --- mounts and namespaces ----------------------------------------------------------------- */

static int mount_memory(void) { return outcome(mount("x", "/tmp", "tmpfs", 0, NULL)); }
static int mount_again(void) { return outcome(mount("/", "/tmp", NULL, MS_BIND, NULL)); }
static int mount_writable(void)
{
    return outcome(mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
}
static int mount_off(void) { return outcome(umount2("/proc", MNT_DETACH)); }
static int pivot(void) { return raw(SYS_pivot_root, (long)"/", (long)"/tmp", 0, 0, 0); }
static int new_filesystem(void) { return raw(SYS_fsopen, (long)"tmpfs", 0, 0, 0, 0); }
static int new_tree(void) { return raw(SYS_open_tree, AT_FDCWD, (long)"/", 1, 0, 0); }
static int new_attributes(void) { return raw(SYS_mount_setattr, AT_FDCWD, (long)"/", 0, 0, 0); }
static int moved_mount(void) { return raw(SYS_move_mount, -1, (long)"", -1, (long)"/", 0); }
static int unshare_users(void) { return outcome(unshare(CLONE_NEWUSER)); }
static int unshare_mounts(void) { return outcome(unshare(CLONE_NEWNS)); }
static int enter_namespace(void)
{
    int file = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    return outcome(setns(file, 0));
}

static int cloned(unsigned long flags)
{
    long child = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(0);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
    return outcome(child);
}

static int clone_users(void) { return cloned(CLONE_NEWUSER); }
static int clone_processes(void) { return cloned(CLONE_NEWPID); }

static int clone_by_structure(void)
{
    unsigned long arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(SYS_clone3, arguments, sizeof arguments);
    if (child == 0)
        _exit(0);
    return outcome(child);
}

static int change_root(void)
{
    mkdir("/tmp/new-root", 0755);
    return outcome(chroot("/tmp/new-root"));
}

/* The way out of a chroot: it must end at the app's own root, where /proc is. */
static int leave_root(void)
{
    struct stat before, after;
    if (stat("/", &before) == -1 || change_root() != 0)
        return EIO;
    for (int at = 0; at < 32; at++)
        if (chdir("..") == -1)
            return errno;
    if (chroot(".") == -1 || stat("/", &after) == -1)
        return errno;
    return before.st_ino == after.st_ino && before.st_dev == after.st_dev ? EXDEV : 0;
}

/* --- processes ----------------------------------------------------------------------------- */

static int trace_init(void) { return outcome(ptrace(PTRACE_SEIZE, 1, NULL, NULL)); }
static int trace_own_child(void) { return outcome(ptrace(PTRACE_TRACEME, 0, NULL, NULL)); }

static int read_process(void)
{
    return raw(SYS_process_vm_readv, 1, 0, 0, 0, 0);
}

static int write_process(void)
{
    return raw(SYS_process_vm_writev, 1, 0, 0, 0, 0);
}

static int take_descriptor(void)
{
    int init = (int)syscall(SYS_pidfd_open, 1, 0);
    return init == -1 ? errno : raw(SYS_pidfd_getfd, init, 0, 0, 0, 0);
}

static int compare_processes(void) { return raw(SYS_kcmp, 1, getpid(), 0, 0, 0); }
static int advise_process(void) { return raw(SYS_process_madvise, -1, 0, 0, 0, 0); }

/* Signals reach a namespace's first process only from outside: it must still be there. */
static int kill_init(void)
{
    if (kill(1, SIGKILL) == -1)
        return errno;
    usleep(50000);
    return kill(1, 0) == -1 ? 0 : ECANCELED;
}

/* Numbers above our own namespace's: nobody must be there but those of this app. */
static int foreign_process(void)
{
    for (pid_t pid = 2; pid < 4096; pid++) {
        char path[64], line[256] = "";
        if (kill(pid, 0) == -1)
            continue;
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        FILE *file = fopen(path, "re");
        if (file != NULL && fread(line, 1, sizeof line - 1, file) > 0 &&
            strstr(line, "inside") == NULL)
            return 0;
        if (file != NULL)
            fclose(file);
    }
    return ESRCH;
}

static int real_time(void)
{
    struct sched_param priority = {.sched_priority = 1};
    return outcome(sched_setscheduler(0, SCHED_FIFO, &priority));
}

static int be_first(void) { return outcome(setpriority(PRIO_PROCESS, 0, -20)); }

static int raise_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return outcome(setrlimit(RLIMIT_NOFILE, &limit));
}

static int gain_capability(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    data[0].effective |= 1u << CAP_SYS_ADMIN;
    data[0].permitted |= 1u << CAP_SYS_ADMIN;
    return outcome(syscall(SYS_capset, &header, data));
}

static int widen_bounds(void)
{
    return prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) == 0 ? EPERM : 0;
}

static int randomize_less(void) { return raw(SYS_personality, 0x0040000, 0, 0, 0, 0); }

static int lock_memory(void)
{
    size_t size = 64 << 20;
    void *memory = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return outcome(mlock(memory, size));
}

/* --- the kernel as a whole ------------------------------------------------------------------ */

static int bpf(void) { return raw(SYS_bpf, 0, 0, 0, 0, 0); }
static int perf(void) { return raw(SYS_perf_event_open, 0, 0, -1, -1, 0); }
static int uring(void) { return raw(SYS_io_uring_setup, 1, 0, 0, 0, 0); }
static int user_faults(void) { return raw(SYS_userfaultfd, 0, 0, 0, 0, 0); }
static int key_add(void) { return raw(SYS_add_key, (long)"user", (long)"x", (long)"y", 1, -3); }
static int key_request(void) { return raw(SYS_request_key, (long)"user", (long)"x", 0, -3, 0); }
static int key_control(void) { return raw(SYS_keyctl, 0, -3, 1, 0, 0); }
static int kexec(void) { return raw(SYS_kexec_load, 0, 0, 0, 0, 0); }
static int kexec_file(void) { return raw(SYS_kexec_file_load, -1, -1, 0, 0, 0); }
static int module_insert(void) { return raw(SYS_init_module, 0, 0, (long)"", 0, 0); }
static int module_insert_file(void) { return raw(SYS_finit_module, -1, (long)"", 0, 0, 0); }
static int module_remove(void) { return raw(SYS_delete_module, (long)"virtio_blk", 0, 0, 0, 0); }
static int restart(void) { return raw(SYS_reboot, 0xfee1dead, 672274793, 0, 0, 0); }
static int swap_on(void) { return raw(SYS_swapon, (long)"/tmp/x", 0, 0, 0, 0); }
static int accounting(void) { return raw(SYS_acct, 0, 0, 0, 0, 0); }
static int quota(void) { return raw(SYS_quotactl, 0, 0, 0, 0, 0); }
static int read_kernel_log(void) { char text[64]; return outcome(klogctl(3, text, sizeof text)); }
static int clear_kernel_log(void) { return outcome(klogctl(5, NULL, 0)); }
static int set_clock(void)
{
    struct timespec time = {1, 0};
    return raw(SYS_clock_settime, CLOCK_REALTIME, (long)&time, 0, 0, 0);
}
static int adjust_clock(void) { return raw(SYS_adjtimex, 0, 0, 0, 0, 0); }
static int name_host(void) { return outcome(sethostname("x", 1)); }
static int name_domain(void) { return outcome(setdomainname("x", 1)); }
static int ports_all(void) { return raw(SYS_iopl, 3, 0, 0, 0, 0); }
static int ports_some(void) { return raw(SYS_ioperm, 0x60, 1, 1, 0, 0); }
static int local_table(void) { return raw(SYS_modify_ldt, 1, 0, 0, 0, 0); }
static int hang_up(void) { return outcome(vhangup()); }
static int handle_of(void) { return raw(SYS_name_to_handle_at, AT_FDCWD, (long)"/", 0, 0, 0); }
static int by_handle(void) { return raw(SYS_open_by_handle_at, AT_FDCWD, 0, 0, 0, 0); }
static int watch_all(void) { return raw(SYS_fanotify_init, 0, 0, 0, 0, 0); }
static int move_pages_of(void) { return raw(SYS_move_pages, 1, 0, 0, 0, 0); }
static int bind_memory(void) { return raw(SYS_mbind, 0, 0, 0, 0, 0); }
static int profiler(void) { return raw(SYS_lookup_dcookie, 0, 0, 0, 0, 0); }

static int old_gate(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    return result > 0 ? 0 : ENOSYS;
}

/* --- the network ------------------------------------------------------------------------------ */

static int socket_of(int family, int type, int protocol)
{
    return outcome(socket(family, type | SOCK_CLOEXEC, protocol));
}

static int raw_socket(void) { return socket_of(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int packet_socket(void) { return socket_of(AF_PACKET, SOCK_RAW, 0); }
static int machine_socket(void) { return socket_of(AF_VSOCK, SOCK_STREAM, 0); }
static int crypto_socket(void) { return socket_of(AF_ALG, SOCK_SEQPACKET, 0); }
static int key_socket(void) { return socket_of(AF_KEY, SOCK_RAW, 2); }
static int cloned_socket(void) { return socket_of(AF_TIPC, SOCK_STREAM, 0); }

static int low_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(81)};
    int end = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return outcome(bind(end, (struct sockaddr *)&address, sizeof address));
}

static int interface_down(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int end = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return outcome(ioctl(end, SIOCSIFFLAGS, &request));
}

static int mark_packets(void)
{
    int end = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), mark = 1;
    return outcome(setsockopt(end, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
}

/* Asks netlink for something and reads the error it answers with. */
static int ask_netlink(int protocol, int type, int flags)
{
    struct { struct nlmsghdr head; char body[64]; } message = {
        .head = {sizeof message, (unsigned short)type, (unsigned short)(NLM_F_REQUEST | NLM_F_ACK | flags), 1, 0}};
    char answer[512];
    int end = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (end == -1 || send(end, &message, sizeof message, 0) == -1)
        return errno;
    if (recv(end, answer, sizeof answer, 0) == -1)
        return errno;
    struct nlmsghdr *head = (struct nlmsghdr *)answer;
    if (head->nlmsg_type != NLMSG_ERROR)
        return 0;
    return -((struct nlmsgerr *)NLMSG_DATA(head))->error;
}

static int interface_make(void) { return ask_netlink(NETLINK_ROUTE, RTM_NEWLINK, NLM_F_CREATE); }
static int route_make(void) { return ask_netlink(NETLINK_ROUTE, RTM_NEWROUTE, NLM_F_CREATE); }
static int firewall(void) { return ask_netlink(NETLINK_NETFILTER, (10 << 8) | 0, NLM_F_CREATE); }
static int audit(void) { return socket_of(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT); }

/* --- the other apps ---------------------------------------------------------------------------- */

/* Its neighbour keeps a folder of this name at its root and in /tmp. */
static int neighbours_file(void)
{
    struct stat status;
    return outcome(stat("/neighbours-secret", &status) & stat("/tmp/neighbours-secret", &status));
}

static int shared_memory(void) { return outcome(shmget(0x6b76, 4096, IPC_CREAT | 0600)); }

static int shared_name(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0probe"};
    int end = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return outcome(bind(end, (struct sockaddr *)&address, sizeof address));
}

/* The device's mode is one file's for all apps only if all apps have the same file. */
static int spoil_null(void)
{
    struct stat status;
    if (chmod("/dev/null", 0) == -1 || stat("/dev/null", &status) == -1)
        return errno;
    return chmod("/dev/null", 0666);
}

static int image_file(void)
{
    return write_to("/bin/inside-copy", "x");
}

const struct probe PROBES[] = {
    {"node-mem", node_memory},
    {"node-kmsg", node_kernel_log},
    {"node-ttyS0", node_serial},
    {"node-console", node_console},
    {"node-ports", node_ports},
    {"node-disks", node_disks},
    {"node-null", node_null},
    {"dev-kmsg", name_kernel_log},
    {"dev-mem", name_memory},
    {"dev-ports", name_port},
    {"dev-disks", name_disk},
    {"dev-urandom-write", name_random_seed},
    {"dev-urandom-credit", add_entropy},
    {"dev-ptmx", open_terminal_master},
    {"dev-tty-type", type_into_terminal},
    {"dev-tun", open_tunnel},
    {"dev-tun-make", make_tunnel},
    {"dev-null-chmod", spoil_null},
    {"proc-kcore", proc_kcore},
    {"proc-kallsyms", proc_kallsyms},
    {"proc-keys", proc_keys},
    {"proc-timer-list", proc_timers},
    {"proc-config", proc_config},
    {"proc-kpagecount", proc_pages},
    {"proc-kmsg", proc_kernel_log},
    {"proc-sysrq-trigger", proc_sysrq},
    {"proc-irq", proc_irq},
    {"proc-oom-score-adj", proc_score},
    {"sysctl-core-pattern", sysctl_core},
    {"sysctl-modprobe", sysctl_modprobe},
    {"sysctl-sysrq", sysctl_sysrq},
    {"sysctl-overcommit", sysctl_memory},
    {"sysctl-panic-on-oom", sysctl_panic},
    {"sysctl-ptrace-scope", sysctl_ptrace},
    {"sysctl-ip-forward", sysctl_forward},
    {"sysctl-hostname", sysctl_hostname},
    {"sysctl-file-max", sysctl_files},
    {"init-root", init_root},
    {"init-descriptors", init_files},
    {"init-memory", init_memory},
    {"init-environment", init_environment},
    {"init-namespaces", init_namespaces},
    {"sys-firmware", sys_firmware},
    {"sys-fs-cgroup", sys_cgroups},
    {"sys-module", sys_modules},
    {"sys-power", sys_power},
    {"sys-block-write", sys_disk},
    {"sys-kernel-write", sys_huge_pages},
    {"sys-bus-unbind", sys_unbind},
    {"mount-tmpfs", mount_memory},
    {"mount-bind", mount_again},
    {"mount-remount", mount_writable},
    {"umount", mount_off},
    {"pivot-root", pivot},
    {"fsopen", new_filesystem},
    {"open-tree", new_tree},
    {"mount-setattr", new_attributes},
    {"move-mount", moved_mount},
    {"chroot", change_root},
    {"chroot-escape", leave_root},
    {"unshare-user", unshare_users},
    {"unshare-mount", unshare_mounts},
    {"clone-user", clone_users},
    {"clone-pid", clone_processes},
    {"clone3-user", clone_by_structure},
    {"setns", enter_namespace},
    {"ptrace-init", trace_init},
    {"ptrace-traceme", trace_own_child},
    {"process-vm-readv", read_process},
    {"process-vm-writev", write_process},
    {"pidfd-getfd", take_descriptor},
    {"kcmp", compare_processes},
    {"process-madvise", advise_process},
    {"kill-init", kill_init},
    {"foreign-process", foreign_process},
    {"sched-fifo", real_time},
    {"nice", be_first},
    {"rlimit-raise", raise_limit},
    {"capset-sys-admin", gain_capability},
    {"bounding-set", widen_bounds},
    {"personality", randomize_less},
    {"mlock-64m", lock_memory},
    {"bpf", bpf},
    {"perf-event-open", perf},
    {"io-uring", uring},
    {"userfaultfd", user_faults},
    {"add-key", key_add},
    {"request-key", key_request},
    {"keyctl", key_control},
    {"kexec-load", kexec},
    {"kexec-file-load", kexec_file},
    {"init-module", module_insert},
    {"finit-module", module_insert_file},
    {"delete-module", module_remove},
    {"reboot", restart},
    {"swapon", swap_on},
    {"acct", accounting},
    {"quotactl", quota},
    {"syslog-read", read_kernel_log},
    {"syslog-clear", clear_kernel_log},
    {"clock-settime", set_clock},
    {"adjtimex", adjust_clock},
    {"sethostname", name_host},
    {"setdomainname", name_domain},
    {"iopl", ports_all},
    {"ioperm", ports_some},
    {"modify-ldt", local_table},
    {"vhangup", hang_up},
    {"name-to-handle-at", handle_of},
    {"open-by-handle-at", by_handle},
    {"fanotify-init", watch_all},
    {"move-pages", move_pages_of},
    {"mbind", bind_memory},
    {"lookup-dcookie", profiler},
    {"int80", old_gate},
    {"socket-raw", raw_socket},
    {"socket-packet", packet_socket},
    {"socket-vsock", machine_socket},
    {"socket-alg", crypto_socket},
    {"socket-key", key_socket},
    {"socket-tipc", cloned_socket},
    {"socket-audit", audit},
    {"bind-low-port", low_port},
    {"interface-down", interface_down},
    {"interface-make", interface_make},
    {"route-make", route_make},
    {"firewall", firewall},
    {"packet-mark", mark_packets},
    {"neighbour-file", neighbours_file},
    {"shared-memory", shared_memory},
    {"abstract-socket", shared_name},
    {"image-file", image_file},
    {NULL, NULL},
};

static void run(const struct probe *probe)
{
    int status, ends[2], result = 0;
    fflush(stdout);
    if (pipe2(ends, O_CLOEXEC) == -1)
        return;
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        result = probe->run();
        _exit(write(ends[1], &result, sizeof result) != sizeof result);
    }
    close(ends[1]);
    ssize_t count = read(ends[0], &result, sizeof result);
    close(ends[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s SIG%s\n", probe->name, sigabbrev_np(WTERMSIG(status)));
    else if (count != sizeof result)
        printf("%s silent\n", probe->name);
    else
        printf("%s %s\n", probe->name, result == 0 ? "allowed" : error_name(result));
}

int run_probes(const char *only)
{
    for (const struct probe *probe = PROBES; probe->name != NULL; probe++)
        if (only == NULL || strcmp(only, probe->name) == 0)
            run(probe);
    return 0;
}
