#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int fork_for_ever(void)
{
    for (;;) {
        pid_t child = fork();
        if (child == -1)
            usleep(1000);
    }
    return 0;
}

static int fill_memory(void)
{
    const size_t step = 1 << 20;
    for (;;) {
        char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED)
            memset(memory, 1, step);
    }
    return 0;
}

static int fill_disk(void)
{
    static char block[1 << 20];
    memset(block, 'x', sizeof block);
    int file = open("/filled", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(file, block, sizeof block) > 0)
        ;
    printf("disk %s\n", error_name(errno));
    return 0;
}

static int ignore_signals(void)
{
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    puts("deaf");
    for (;;)
        pause();
    return 0;
}

/* Children that end and are never waited for. */
static int leave_zombies(void)
{
    int count = 0;
    for (int at = 0; at < 40; at++)
        if (fork() == 0)
            _exit(0);
        else
            count++;
    printf("zombies %d\n", count);
    return 0;
}

static int close_streams(void)
{
    close(0);
    close(1);
    close(2);
    for (int at = 0; at < 20; at++)
        usleep(20000);
    return 0;
}

/* Both streams at once, without line ends on one of them. */
static int flood_streams(void)
{
    static char block[1 << 16];
    memset(block, 'y', sizeof block);
    for (int at = 0; at < 400; at++) {
        if (write(2, block, sizeof block) < 0)
            return 1;
        block[sizeof block - 1] = '\n';
        if (write(1, block, sizeof block) < 0)
            return 1;
        block[sizeof block - 1] = 'y';
    }
    return 0;
}

int misbehave(const char *how)
{
    static const struct { const char *name; int (*act)(void); } WAYS[] = {
        {"fork", fork_for_ever}, {"memory", fill_memory}, {"disk", fill_disk},
        {"deaf", ignore_signals}, {"zombies", leave_zombies}, {"close", close_streams},
        {"flood", flood_streams},
    };
    for (size_t at = 0; at < sizeof WAYS / sizeof *WAYS; at++)
        if (strcmp(WAYS[at].name, how) == 0)
            return WAYS[at].act();
    return 2;
}
