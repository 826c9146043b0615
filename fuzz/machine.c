/*
 * A QEMU with the device and guests/bare-metal, driven by a fuzzer
 *
 * The environment has the paths: FUZZ_QEMU of the binary, FUZZ_IMAGE of the
 * guest, FUZZ_CONFIG of guests/tcg.cfg, FUZZ_PRELOAD of the compiled
 * testlib/failing-read.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "hcalls.h"
#include "machine.h"
#include "source.h"

const MachineType machine_types[MACHINES] = {
    { "fifo", "tcg,thread=multi", NULL, "timeout=0", 3, false, false },
    { "egd", "tcg,thread=multi", NULL, "timeout=0", 3, true, false },
    { "pool-8", "tcg,thread=multi", NULL, "pool-size=8,timeout=30", 1, false,
      true },
    { "egd-1", "tcg,thread=multi", NULL, "timeout=40", 1, true, true },
    { "single", "tcg,thread=single", NULL, "pool-size=27,timeout=50", 3, false,
      true },
    { "quota", "tcg,thread=multi", NULL,
      "timeout=0,max-bytes=80000,period=1000", 2, false, false },
    { "icount", "tcg", "shift=auto", "timeout=0", 2, true, false },
};

int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int64_t patience_begin(void)
{
    return now_ms() + HANG_MS;
}

bool patience_is_over(int64_t end)
{
    return now_ms() > end;
}

static void show_log(Machine *m)
{
    char command[4096];

    snprintf(command, sizeof(command), "cat '%s/log' >&2", m->directory);
    if (system(command)) {
        perror("cat");
    }
}

void failed(Machine *m, const char *what, ...)
{
    va_list args;

    fprintf(stderr, "fuzz: %s: ", m->type->name);
    va_start(args, what);
    vfprintf(stderr, what, args);
    va_end(args);
    fprintf(stderr, "; QEMU said:\n");
    show_log(m);
    abort();
}

static char *in(Machine *m, const char *name)
{
    char *path;

    if (asprintf(&path, "%s/%s", m->directory, name) < 0) {
        abort();
    }
    return path;
}

static volatile uint64_t *word(Machine *m, uint64_t address)
{
    return (uint64_t *)(m->ram + address);
}

static uint64_t peek(Machine *m, int cpu, int field)
{
    return be64toh(*word(m, BLOCKS + cpu * BLOCK_SIZE + field));
}

static void poke(Machine *m, int cpu, int field, uint64_t value)
{
    *word(m, BLOCKS + cpu * BLOCK_SIZE + field) = htobe64(value);
}

static void make_ram(Machine *m)
{
    char *path = in(m, "ram");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, RAM_SIZE) < 0) {
        perror(path);
        exit(1);
    }
    m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m->ram == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    close(fd);
    free(path);

    *word(m, CPUS) = htobe64(m->type->cpus);
    for (int cpu = 0; cpu < m->type->cpus; cpu++) {
        poke(m, cpu, INTERVAL, TB_HZ / 1000);
        poke(m, cpu, INTERRUPTS, cpu == 0);
    }
}

static void child(Machine *m, int qmp, bool incoming)
{
    const MachineType *t = m->type;
    const char *argv[64];
    char *log = in(m, "log"), *path = m->source->path, *source, *chardev;
    char *ram, *device, *monitor, cpus[8];
    int n = 0, fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    fcntl(qmp, F_SETFD, 0);
    setenv("FAILING_FILE", path, 1);
    setenv("FAILING_CONTROL", m->source->control_path, 1);
    if (!t->egd) {
        setenv("LD_PRELOAD", getenv("FUZZ_PRELOAD"), 1);
    }
    if (asprintf(&source, t->egd ? "rng-egd,chardev=egd,id=rng0" :
                 "rng-random,filename=%s,id=rng0", path) < 0 ||
        asprintf(&chardev, "socket,id=egd,path=%s,reconnect-ms=10", path) < 0 ||
        asprintf(&ram, "memory-backend-file,id=ram,share=on,size=%d,"
                 "mem-path=%s/ram", RAM_SIZE, m->directory) < 0 ||
        asprintf(&device, "spapr-rng,id=hrandom,rng=rng0,%s", t->device) < 0 ||
        asprintf(&monitor, "socket,id=qmp,fd=%d", qmp) < 0) {
        abort();
    }
    snprintf(cpus, sizeof(cpus), "%d", t->cpus);

#define ADD(...) do {                                                       \
        const char *more[] = { __VA_ARGS__ };                               \
        memcpy(argv + n, more, sizeof(more));                               \
        n += sizeof(more) / sizeof(*more);                                  \
    } while (0)
    ADD(getenv("FUZZ_QEMU"), "-L", "/usr/share/qemu", "-nodefaults",
        "-display", "none", "-accel", t->accel,
        "-machine", "pseries,memory-backend=ram",
        "-readconfig", getenv("FUZZ_CONFIG"), "-bios", getenv("FUZZ_IMAGE"),
        "-smp", cpus, "-m", "256M", "-object", ram, "-chardev", monitor,
        "-mon", "chardev=qmp,mode=control");
    if (t->icount) {
        ADD("-icount", t->icount);
    }
    if (t->egd) {
        ADD("-chardev", chardev);
    }
    if (incoming) {
        ADD("-incoming", "defer");
    }
    ADD("-object", source, "-device", device, NULL);
    execv(argv[0], (char **)argv);
    perror(argv[0]);
    _exit(1);
}

/* Wait for a line of QMP, which is then at the start of received[]. */
static int receive_line(Machine *m, int64_t patience)
{
    for (;;) {
        char *end = memchr(m->received, '\n', m->received_len);
        struct pollfd p = { .fd = m->qmp, .events = POLLIN };
        ssize_t len;

        if (end) {
            *end = 0;
            return end - m->received + 1;
        }
        source_serve(m->source);
        if (patience_is_over(patience)) {
            failed(m, "no answer to %s within %d ms", m->asked, HANG_MS);
        }
        if (poll(&p, 1, 5) <= 0) {
            continue;
        }
        len = read(m->qmp, m->received + m->received_len,
                   sizeof(m->received) - m->received_len - 1);
        if (len <= 0) {
            failed(m, "QEMU has ended");
        }
        m->received_len += len;
    }
}

static void drop_line(Machine *m, int len)
{
    m->received_len -= len;
    memmove(m->received, m->received + len, m->received_len);
}

/* Wait for an answer, and copy it if @answer is not NULL. */
static bool receive(Machine *m, int64_t patience, char *answer,
                    size_t size)
{
    for (;;) {
        int len = receive_line(m, patience);
        bool error = !strncmp(m->received, "{\"error\"", 8);
        bool done = error || !strncmp(m->received, "{\"return\"", 9) ||
                    !strncmp(m->received, "{\"QMP\"", 6);

        m->reset_seen |= strstr(m->received, "\"event\": \"RESET\"") != NULL;
        if (done && answer) {
            snprintf(answer, size, "%s", m->received);
        }
        drop_line(m, len);
        if (done) {
            return !error;
        }
    }
}

static bool command(Machine *m, const char *name, const char *arguments,
                    char *answer, size_t size)
{
    char line[1024];
    int len = snprintf(line, sizeof(line),
                       "{\"execute\": \"%s\", \"arguments\": {%s}}\n",
                       name, arguments);
    int64_t patience = patience_begin();

    m->asked = name;
    if (write(m->qmp, line, len) != len) {
        failed(m, "QEMU has ended");
    }
    return receive(m, patience, answer, size);
}

bool machine_command(Machine *m, const char *name, const char *arguments)
{
    return command(m, name, arguments, NULL, 0);
}

int64_t machine_property(Machine *m, const char *name)
{
    char arguments[256], answer[1024];
    long long value;

    snprintf(arguments, sizeof(arguments), "\"path\": "
             "\"/machine/peripheral/hrandom\", \"property\": \"%s\"", name);
    if (!command(m, "qom-get", arguments, answer, sizeof(answer)) ||
        sscanf(answer, "{\"return\": %lld", &value) != 1) {
        failed(m, "qom-get %s: %s", name, answer);
    }
    return value;
}

static void launch(Machine *m, bool incoming)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        perror("socketpair");
        exit(1);
    }
    fflush(NULL);
    m->pid = fork();
    if (!m->pid) {
        child(m, pair[1], incoming);
    }
    close(pair[1]);
    m->qmp = pair[0];
    m->received_len = 0;
    receive(m, patience_begin(), NULL, 0);
    if (!machine_command(m, "qmp_capabilities", "")) {
        failed(m, "qmp_capabilities");
    }
    machine_command(m, "migrate-set-capabilities", "\"capabilities\": [{"
                    "\"capability\": \"x-ignore-shared\", \"state\": true}]");
}

static void kill_process(Machine *m)
{
    kill(m->pid, SIGKILL);
    waitpid(m->pid, NULL, 0);
    close(m->qmp);
}

Machine *machine_start(const MachineType *type, const char *directory)
{
    Machine *m = calloc(1, sizeof(*m));

    m->type = type;
    m->asked = "connect";
    m->directory = strdup(directory);
    m->source = source_new(directory, type->egd);
    make_ram(m);
    launch(m, false);
    return m;
}

void machine_end(Machine *m)
{
    static const char *const files[] = { "ram", "log", "state" };

    kill_process(m);
    munmap(m->ram, RAM_SIZE);
    for (int i = 0; i < 3; i++) {
        char *path = in(m, files[i]);

        unlink(path);
        free(path);
    }
    source_free(m->source);
    free(m->directory);
    free(m);
}

static const char *backend_id(bool other)
{
    return other ? "other" : "rng0";
}

void machine_add_backend(Machine *m, bool other)
{
    char arguments[512];

    snprintf(arguments, sizeof(arguments), "\"id\": \"%s\", %s%s\"",
             backend_id(other), m->type->egd && !other ?
             "\"qom-type\": \"rng-egd\", \"chardev\": \"" :
             "\"qom-type\": \"rng-random\", \"filename\": \"",
             other ? m->source->other_path :
             m->type->egd ? "egd" : m->source->path);
    machine_command(m, "object-add", arguments);
}

void machine_use(Machine *m, bool other)
{
    char arguments[256];

    machine_add_backend(m, other);
    snprintf(arguments, sizeof(arguments), "\"path\": "
             "\"/machine/peripheral/hrandom\", \"property\": \"rng\", "
             "\"value\": \"%s\"", backend_id(other));
    if (!machine_command(m, "qom-set", arguments)) {
        failed(m, "the source cannot be replaced");
    }
    m->uses_other = other;
}

void machine_delete_backend(Machine *m)
{
    for (int other = 0; other < 2; other++) {
        char arguments[64];

        snprintf(arguments, sizeof(arguments), "\"id\": \"%s\"",
                 backend_id(other));
        if (machine_command(m, "object-del", arguments) &&
            other == m->uses_other) {
            failed(m, "object-del of the backend in use succeeds");
        }
    }
}

void machine_reset(Machine *m)
{
    int64_t patience = patience_begin();

    m->reset_seen = false;
    machine_command(m, "system_reset", "");
    while (!m->reset_seen) {
        if (patience_is_over(patience)) {
            failed(m, "no reset within %d ms", HANG_MS);
        }
        machine_command(m, "query-status", "");
    }
}

static void wait_for(Machine *m, const char *query, const char *state)
{
    char answer[8192];
    int64_t patience = patience_begin();

    while (!patience_is_over(patience)) {
        command(m, query, "", answer, sizeof(answer));
        if (strstr(answer, state)) {
            return;
        }
        if (strstr(answer, "\"status\": \"failed\"")) {
            break;
        }
        source_serve(m->source);
        usleep(1000);
    }
    failed(m, "%s does not come to %s: %s", query, state, answer);
}

void machine_save(Machine *m)
{
    char *uri, *state = in(m, "state");
    int64_t patience = patience_begin();

    if (asprintf(&uri, "\"uri\": \"file:%s\"", state) < 0) {
        abort();
    }
    /* The previous migration may still be cleaning up. */
    while (!machine_command(m, "migrate", uri)) {
        if (patience_is_over(patience)) {
            failed(m, "migrate is refused");
        }
        usleep(1000);
    }
    wait_for(m, "query-migrate", "\"status\": \"completed\"");
    /* Before this status, QEMU refuses "cont". */
    wait_for(m, "query-status", "\"status\": \"postmigrate\"");
    free(uri);
    free(state);
}

void machine_move(Machine *m)
{
    char *uri, *state = in(m, "state");

    machine_save(m);
    kill_process(m);
    m->uses_other = false;
    launch(m, true);
    if (asprintf(&uri, "\"uri\": \"file:%s\"", state) < 0) {
        abort();
    }
    if (!machine_command(m, "migrate-incoming", uri)) {
        failed(m, "migrate-incoming is refused");
    }
    wait_for(m, "query-migrate", "\"status\": \"completed\"");
    free(uri);
    free(state);
}

void guest_call(Machine *m, int cpu, uint64_t calls)
{
    poke(m, cpu, CALLS, calls);
    poke(m, cpu, OPCODE, H_RANDOM);
    poke(m, cpu, RECORD, NOTE);
    __sync_synchronize();
    poke(m, cpu, GO, peek(m, cpu, DONE) + 1);
}

bool guest_is_done(Machine *m, int cpu)
{
    return peek(m, cpu, GO) == peek(m, cpu, DONE);
}

uint64_t guest_results(Machine *m, int cpu)
{
    return peek(m, cpu, COUNT);
}

void guest_result(Machine *m, int cpu, uint64_t i, uint64_t *status,
                  uint8_t value[8])
{
    uint64_t at = ((cpu + 1) << 20) + i % RING_LENGTH * 16;

    *status = be64toh(*word(m, at));
    memcpy(value, m->ram + at + 8, 8);
}

bool guest_is_damaged(Machine *m, int cpu)
{
    return peek(m, cpu, DAMAGE) != 0;
}
