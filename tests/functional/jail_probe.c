/* Run in QEMU's place: says what it sees, and what it is able to do, one `word value` a line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void answer(const char *word, long result)
{
    printf("%s %s\n", word, result < 0 ? strerrorname_np(errno) : "ok");
}

static int visit(const char *path, const struct stat *state, int kind, struct FTW *place)
{
    (void)state, (void)place;
    if (strncmp(path, "/proc", 5) == 0)
        return 0;
    if (kind == FTW_F)
        printf("file %s\n", path);
    if (kind == FTW_D) {
        char fresh[4096];
        snprintf(fresh, sizeof fresh, "%s/fresh", path);
        int made = open(fresh, O_CREAT | O_WRONLY, 0600);
        if (made >= 0)
            printf("writable %s\n", path);
    }
    return 0;
}

static void status(const char *wanted)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, wanted, strlen(wanted)) == 0 && line[strlen(wanted)] == ':')
            printf("%s %s", wanted, line + strlen(wanted) + 2);
    fclose(file);
}

static long reach_host(int port, int kind)
{
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(port),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int end = socket(AF_INET, kind, 0);
    return end < 0 ? -1 : connect(end, (struct sockaddr *)&host, sizeof host);
}

static long reach_abstract(const char *name)
{
    struct sockaddr_un host = {.sun_family = AF_UNIX};
    memcpy(host.sun_path + 1, name, strlen(name));
    int end = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(end, (struct sockaddr *)&host,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)));
}

static void look(int port, const char *abstract, int victim)
{
    printf("uid %d\ngid %d\ngroups %d\npid %d\n", getuid(), getgid(), getgroups(0, 0), getpid());
    for (const char *const *word = (const char *const[]){"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
                                                        "NoNewPrivs", "Seccomp", 0}; *word; word++)
        status(*word);
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));)
        if (atoi(entry->d_name) > 0)
            printf("process %s\n", entry->d_name);
    nftw("/", visit, 16, FTW_PHYS);
    struct if_nameindex *links = if_nameindex();
    for (struct if_nameindex *link = links; link && link->if_index; link++)
        printf("link %s\n", link->if_name);
    char name[64] = "";
    gethostname(name, sizeof name);
    printf("hostname %s\n", name);
    answer("tcp", reach_host(port, SOCK_STREAM));
    answer("udp", reach_host(port, SOCK_DGRAM));
    answer("abstract", reach_abstract(abstract));
    answer("kill", kill(victim, 0));
    answer("setuid", setuid(0));
    answer("setgroups", setgroups(1, (gid_t[]){0}));
    answer("chroot", chroot("/"));
    answer("mount", mount("none", "/boot", "tmpfs", 0, 0));
    answer("umount2", umount2("/boot/kernel", MNT_DETACH));
    answer("pivot_root", syscall(SYS_pivot_root, "/", "/"));
    answer("mknod", mknod("/boot/device", S_IFBLK | 0600, 0x0801));
    answer("unshare", unshare(CLONE_NEWUSER));
    answer("setns", setns(0, 0));
    answer("clone", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    answer("clone3", syscall(SYS_clone3, 0, 0));
    answer("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    answer("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
    answer("bpf", syscall(SYS_bpf, 0, 0, 0));
    answer("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    answer("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
    answer("userfaultfd", syscall(SYS_userfaultfd, 0));
    answer("keyctl", syscall(SYS_keyctl, 0, 0));
    answer("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    answer("init_module", syscall(SYS_init_module, 0, 0, ""));
    answer("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    answer("sethostname", sethostname("x", 1));
    answer("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, 0, 0));
    struct rlimit core;
    getrlimit(RLIMIT_CORE, &core);
    printf("core %lu\n", (unsigned long)core.rlim_max);
}

static int fork_until_refused(void)
{
    int children = 0;
    while (children < 5000) {
        pid_t child = fork();
        if (child < 0) {
            printf("children %d %s\n", children, strerrorname_np(errno));
            fflush(stdout);
            break;
        }
        if (child == 0) {
            pause();
            _exit(0);
        }
        children++;
    }
    return 0;
}

int main(int count, char **words)
{
    const char *what = words[1];
    setvbuf(stdout, 0, _IOLBF, 0);
    if (strcmp(what, "look") == 0 && count == 5)
        look(atoi(words[2]), words[3], atoi(words[4]));
    if (strcmp(what, "fork") == 0)
        return fork_until_refused();
    if (strcmp(what, "memory") == 0)
        for (int mebibytes = 0; mebibytes < 256; mebibytes++)
            memset(malloc(1 << 20), 1, 1 << 20);
    if (strcmp(what, "burn") == 0)
        while (clock() < CLOCKS_PER_SEC / 2)
            ;
    if (strcmp(what, "grow") == 0) {
        signal(SIGXFSZ, SIG_IGN);
        answer("inside", pwrite(atoi(words[2]), "x", 1, 0));
        answer("beyond", pwrite(atoi(words[2]), "x", 1, atoll(words[3])));
    }
    if (strcmp(what, "wait") == 0) {
        puts("waiting");
        for (;;)
            pause();
    }
    return 0;
}
