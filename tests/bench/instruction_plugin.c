/* A QEMU TCG plugin that counts guest instructions and writes the total to a file at exit.
 *
 * Debian's QEMU has plugins enabled but ships no header, so the few prototypes are declared here
 * (include/qemu/qemu-plugin.h of QEMU). API_VERSION comes from the command line: QEMU refuses a plugin
 * whose version it does not know, and the functions used here are the same in all of them. */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum register_use { NO_REGISTERS = 0 };

typedef void (*translated_callback)(plugin_id id, struct qemu_plugin_tb *block);
typedef void (*executed_callback)(unsigned int cpu, void *data);
typedef void (*exit_callback)(plugin_id id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, translated_callback callback);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, executed_callback callback,
                                          enum register_use use, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, exit_callback callback, void *data);

EXPORT int qemu_plugin_version = API_VERSION;

static uint64_t instructions; /* the benchmark's machine has one processor: no atomics needed */
static uint64_t blocks;
static char output[4096];

static void block_executed(unsigned int cpu, void *data)
{
    (void)cpu;
    instructions += (uintptr_t)data;
}

static void block_translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    blocks++;
    qemu_plugin_register_vcpu_tb_exec_cb(block, block_executed, NO_REGISTERS,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(block));
}

static void at_exit(plugin_id id, void *data)
{
    (void)id;
    (void)data;
    FILE *file = fopen(output, "w");
    if (file == NULL)
        return;
    fprintf(file, "%" PRIu64 " %" PRIu64 "\n", instructions, blocks);
    fclose(file);
}

/* Arguments: out=FILE. Returns non-zero, which makes QEMU refuse to start, without it. */
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0)
            snprintf(output, sizeof output, "%s", argv[i] + 4);
    }
    if (output[0] == '\0')
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
