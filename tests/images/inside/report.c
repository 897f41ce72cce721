#include "inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static void print_identity(void)
{
    uid_t real, effective, saved;
    gid_t group, effective_group, saved_group, groups[64];
    getresuid(&real, &effective, &saved);
    getresgid(&group, &effective_group, &saved_group);
    printf("uids %u %u %u\n", real, effective, saved);
    printf("gids %u %u %u\n", group, effective_group, saved_group);
    int count = getgroups(64, groups);
    printf("groups");
    for (int at = 0; at < count; at++)
        printf(" %u", groups[at]);
    printf("\nsession %s\n", getsid(0) == getpid() ? "own" : "foreign");
    mode_t mask = umask(0);
    umask(mask);
    printf("umask %03o\n", mask);
    char place[4096];
    printf("directory %s\n", getcwd(place, sizeof place) != NULL ? place : "?");
}

static void print_file(const char *key, const char *path)
{
    char line[1024] = "";
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        printf("%s %s\n", key, error_name(errno));
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = 0;
        printf("%s %s\n", key, line);
    }
    fclose(file);
}

static void print_limits(void)
{
    static const struct { const char *name; int number; } LIMITS[] = {
        {"nofile", RLIMIT_NOFILE}, {"core", RLIMIT_CORE}, {"stack", RLIMIT_STACK},
        {"nproc", RLIMIT_NPROC}, {"memlock", RLIMIT_MEMLOCK}, {"fsize", RLIMIT_FSIZE},
        {"as", RLIMIT_AS}, {"rtprio", RLIMIT_RTPRIO}, {"nice", RLIMIT_NICE},
    };
    for (size_t at = 0; at < sizeof LIMITS / sizeof *LIMITS; at++) {
        struct rlimit limit;
        getrlimit(LIMITS[at].number, &limit);
        printf("limit-%s %lld %lld\n", LIMITS[at].name, (long long)limit.rlim_cur,
               (long long)limit.rlim_max);
    }
}

static void print_devices(void)
{
    DIR *folder = opendir("/dev");
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        char path[300], target[256] = "";
        struct stat status;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        lstat(path, &status);
        if (S_ISCHR(status.st_mode)) {
            int opened = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
            printf("device %s %u:%u %03o %s\n", entry->d_name, major(status.st_rdev),
                   minor(status.st_rdev), status.st_mode & 0777,
                   opened >= 0 ? "opens" : error_name(errno));
            if (opened >= 0)
                close(opened);
        } else if (S_ISLNK(status.st_mode)) {
            ssize_t size = readlink(path, target, sizeof target - 1);
            printf("device %s -> %.*s\n", entry->d_name, (int)size, target);
        } else {
            printf("device %s %s\n", entry->d_name, S_ISDIR(status.st_mode) ? "folder" : "other");
        }
    }
    if (folder != NULL)
        closedir(folder);
}

/* "mount PLACE TYPE FLAGS", the flags of the mount itself. */
static void print_mounts(void)
{
    char line[2048];
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char place[512], flags[256], type[64] = "?";
        if (sscanf(line, "%*s %*s %*s %*s %511s %255s", place, flags) != 2)
            continue;
        char *dash = strstr(line, " - ");
        if (dash != NULL)
            sscanf(dash + 3, "%63s", type);
        printf("mount %s %s %s\n", place, type, flags);
    }
    if (file != NULL)
        fclose(file);
}

static void print_behaviour_of_devices(void)
{
    char byte = 'x', many[64];
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
    int full = open("/dev/full", O_RDWR), random = open("/dev/random", O_RDONLY);
    int urandom = open("/dev/urandom", O_RDONLY);
    printf("null %zd %zd\n", write(null, "x", 1), read(null, &byte, 1));
    ssize_t count = read(zero, &byte, 1);
    printf("zero %zd %d\n", count, byte);
    printf("full %s\n", write(full, "x", 1) == -1 ? error_name(errno) : "written");
    printf("random %zd %zd\n", read(random, many, sizeof many), read(urandom, many, sizeof many));
}

int report(void)
{
    print_identity();
    print_file("status", "/proc/self/status");
    print_file("hostname", "/etc/hostname");
    print_file("hosts", "/etc/hosts");
    print_file("resolver", "/etc/resolv.conf");
    print_file("machine-id", "/etc/machine-id");
    print_file("oom-score-adj", "/proc/self/oom_score_adj");
    char target[256];
    ssize_t size = readlink("/etc/mtab", target, sizeof target);
    printf("mtab %.*s\n", size > 0 ? (int)size : 0, target);
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    printf("node %s\n", name);
    print_limits();
    print_devices();
    print_behaviour_of_devices();
    print_mounts();
    struct statfs statistics;
    static const char *const PLACES[] = {"/", "/proc", "/sys", "/dev", "/dev/shm", "/dev/pts"};
    for (size_t at = 0; at < sizeof PLACES / sizeof *PLACES; at++)
        if (statfs(PLACES[at], &statistics) == 0)
            printf("filesystem %s %lx\n", PLACES[at], (long)statistics.f_type);
    cpu_set_t processors;
    sched_getaffinity(0, sizeof processors, &processors);
    printf("processors %d\n", CPU_COUNT(&processors));
    return 0;
}
