/* A program that looks at its surroundings from inside an app and says what it finds, a line each. */
#ifndef INSIDE_H
#define INSIDE_H

#include <stdio.h>
#include <string.h>

/* What came of a probe: 0, or an errno. */
typedef int (*probe_function)(void);

struct probe {
    const char *name;
    probe_function run;
};

extern const struct probe PROBES[];

/* "NAME allowed", "NAME EPERM", "NAME SIGSYS": each in a process of its own. */
int run_probes(const char *only);

/* What the process is and has, as "KEY VALUE" lines. */
int report(void);

/* Bad neighbours. */
int misbehave(const char *how);

/* The name of an errno or a signal. */
const char *error_name(int number);

#endif
