#include "inside.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *error_name(int number)
{
    return strerrorname_np(number);
}

static int print_environment(void)
{
    for (char **pair = environ; *pair != NULL; pair++)
        printf("%s\n", *pair);
    return 0;
}

/* Makes one system call without arguments and says what it gave. */
static int call(const char *number)
{
    long result = syscall(atol(number), 0, 0, 0, 0, 0, 0);
    if (result == -1)
        printf("%s\n", error_name(errno));
    else
        printf("%ld\n", result);
    return 0;
}

static int wait_for_file(const char *path)
{
    struct stat status;
    while (stat(path, &status) != 0)
        usleep(20000);
    return 0;
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int at = 1; at < count; at++) {
        const char *word = words[at];
        const char *next = at + 1 < count ? words[at + 1] : NULL;
        int status = 2;
        if (strcmp(word, "report") == 0)
            status = report();
        else if (strcmp(word, "environment") == 0)
            status = print_environment();
        else if (strcmp(word, "probes") == 0)
            status = run_probes(NULL);
        else if (next != NULL && at++ > 0) {
            if (strcmp(word, "probe") == 0)
                status = run_probes(next);
            else if (strcmp(word, "call") == 0)
                status = call(next);
            else if (strcmp(word, "say") == 0)
                status = puts(next) < 0;
            else if (strcmp(word, "touch") == 0)
                status = mkdir(next, 0700) != 0;
            else if (strcmp(word, "await") == 0)
                status = wait_for_file(next);
            else if (strcmp(word, "exit") == 0)
                return atoi(next);
            else if (strcmp(word, "misbehave") == 0)
                status = misbehave(next);
        }
        if (status != 0) {
            fprintf(stderr, "inside: %s failed\n", word);
            return status;
        }
    }
    return 0;
}
