/*
 * Fuzz H_RANDOM: calls, commands of the monitor, and trouble of the source
 *
 * A libFuzzer target. An input is a text with one step per line. The first line
 * names the machine, one of machine_types[]; verbs[] has the steps, which are
 * done to a running QEMU. Then the source recovers and gives bytes. Every call
 * must be answered within HANG_MS, with eight bytes of the source that no other
 * call got, in their order. If no step can lose bytes, all bytes must be
 * delivered.
 *
 * With FUZZ_TRACE, each step is shown. FUZZ_COUNTERS is the file of the
 * counters of fuzz/coverage.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hw/ppc/spapr_rng_health.h"
#include "machine.h"
#include "source.h"

#define STEPS_MAX 40
#define EDGES_MAX 4096

/*
 * The bytes of a window of the health tests. A window that begins with bad
 * bytes may be found bad at any good byte that follows in it.
 */
#define WINDOW (SPAPR_RNG_HEALTH_WINDOW * 8)

typedef enum Verb {
    CALL, FEED, REPEAT, STUCK, WAIT, STOP, CONT, RESET, GET, SWAP, DEL, SAVE,
    MOVE, END, FAIL, SLOW, HANG, HEAL, VERBS
} Verb;

/* The name of a step, the limit of its number, and how often it is tried */
static const struct {
    const char *name;
    int max;
    int weight;
} verbs[VERBS] = {
    { "call", 12, 12 },     /* so many calls by the next idle vCPU */
    { "feed", 5000, 10 },   /* give so many bytes */
    { "repeat", 700, 1 },   /* give a word so many times: bad */
    { "stuck", 1300, 1 },   /* give so many words with a common byte: bad */
    { "wait", 30, 4 },      /* milliseconds */
    { "stop", 0, 3 },
    { "cont", 0, 3 },
    { "reset", 0, 3 },
    { "get", 0, 2 },        /* read all statistics */
    { "swap", 0, 2 },       /* replace the backend by the other one */
    { "del", 0, 2 },        /* delete both backends; the one in use must stay */
    { "save", 0, 2 },       /* migrate to a file, and go on */
    { "move", 0, 1 },       /* migrate to a new process, with one vCPU */
    { "end", 0, 3 },        /* the FIFO or the daemon ends */
    { "fail", 0, 3 },       /* reads fail; a daemon hangs up */
    { "slow", 50, 2 },      /* milliseconds that each read takes */
    { "hang", 0, 2 },       /* reads do not return */
    { "heal", 0, 3 },
};

typedef struct Step {
    Verb verb;
    int number;
} Step;

typedef struct Program {
    int machine;
    int length;
    Step steps[STEPS_MAX];
} Program;

/* What is known about the calls of an input */
typedef struct Run {
    Machine *m;
    bool lossy;                     /* bytes may be thrown away */
    int seams;                      /* values with lost bytes in the middle */
    int64_t answered;               /* "calls" before this input */
    uint64_t called[CPUS_MAX];      /* calls that each vCPU should make */
    uint64_t begin[CPUS_MAX];       /* number of results before this input */
    uint64_t seen[CPUS_MAX];        /* number of checked results */
    int last[CPUS_MAX][STREAMS];    /* position of its last value */
    int first, end;                 /* delivered range of the first stream */
    int delivered;
} Run;

__attribute__((used, section("__libfuzzer_extra_counters")))
static uint8_t counters[EDGES_MAX];
static uint8_t *qemus_counters;
static int steps_done[VERBS];
static char directory[4096];
static Machine *machines[MACHINES];
static bool tracing;

static void parse_line(Program *p, char *line)
{
    char name[16] = "";
    int number = 0;

    if (sscanf(line, "machine %15s", name) == 1) {
        for (int i = 0; i < MACHINES; i++) {
            if (!strcmp(name, machine_types[i].name)) {
                p->machine = i;
            }
        }
        return;
    }
    if (p->length == STEPS_MAX || sscanf(line, "%15s %d", name, &number) < 1) {
        return;
    }
    for (Verb verb = 0; verb < VERBS; verb++) {
        if (!strcmp(name, verbs[verb].name)) {
            number = number < 1 ? 1 : number;
            number = number > verbs[verb].max ? verbs[verb].max : number;
            p->steps[p->length++] = (Step) { verb, number };
        }
    }
}

static Program parse(const uint8_t *data, size_t size)
{
    Program p = { 0 };
    char *text = strndup((const char *)data, size);
    char *rest = text, *line;

    while ((line = strsep(&rest, "\n"))) {
        parse_line(&p, line);
    }
    free(text);
    return p;
}

static int print_step(char *text, const Step *step)
{
    return sprintf(text, verbs[step->verb].max ? "%s %d\n" : "%s\n",
                   verbs[step->verb].name, step->number);
}

static size_t print(const Program *p, uint8_t *data, size_t max)
{
    char text[STEPS_MAX * 20];
    int len = sprintf(text, "machine %s\n", machine_types[p->machine].name);

    for (int i = 0; i < p->length; i++) {
        len += print_step(text + len, &p->steps[i]);
    }
    if ((size_t)len > max) {
        return 0;
    }
    memcpy(data, text, len);
    return len;
}

static Step random_step(unsigned int *seed)
{
    int total = 0, pick;
    Verb verb = 0;

    for (Verb v = 0; v < VERBS; v++) {
        total += verbs[v].weight;
    }
    pick = rand_r(seed) % total;
    while (pick >= verbs[verb].weight) {
        pick -= verbs[verb++].weight;
    }
    /* Prefer small numbers, so that bytes run out in the middle of a word. */
    return (Step) { verb, verbs[verb].max ? 1 + rand_r(seed) %
        (rand_r(seed) % 2 ? verbs[verb].max :
         verbs[verb].max < 40 ? verbs[verb].max : 40) : 0 };
}

static void mutate(Program *p, unsigned int *seed)
{
    int at = p->length ? rand_r(seed) % p->length : 0;

    switch (rand_r(seed) % 8) {
    case 0:
        p->machine = rand_r(seed) % MACHINES;
        break;
    case 1:
        if (p->length) {
            memmove(p->steps + at, p->steps + at + 1,
                    (--p->length - at) * sizeof(Step));
        }
        break;
    case 2:
        if (p->length) {
            p->steps[at] = random_step(seed);
        }
        break;
    case 3:
        if (p->length && verbs[p->steps[at].verb].max) {
            p->steps[at].number = 1 + rand_r(seed) %
                                  verbs[p->steps[at].verb].max;
        }
        break;
    default:
        if (p->length < STEPS_MAX) {
            memmove(p->steps + at + 1, p->steps + at,
                    (p->length++ - at) * sizeof(Step));
            p->steps[at] = random_step(seed);
        }
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max,
                               unsigned int seed)
{
    Program p = parse(data, size);

    for (int n = 1 + rand_r(&seed) % 4; n; n--) {
        mutate(&p, &seed);
    }
    return print(&p, data, max);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1,
                                 const uint8_t *data2, size_t size2,
                                 uint8_t *out, size_t max, unsigned int seed)
{
    Program p = parse(data1, size1), q = parse(data2, size2);

    p.length = rand_r(&seed) % (p.length + 1);
    for (int i = q.length ? rand_r(&seed) % q.length : 0;
         i < q.length && p.length < STEPS_MAX; i++) {
        p.steps[p.length++] = q.steps[i];
    }
    return print(&p, out, max);
}

/*
 * Show the positions of the last results of each vCPU, which are out of order.
 */
static void show_order(Run *r)
{
    Source *s = r->m->source;

    fprintf(stderr, "fuzz: %d bytes were given, the last bad one is before %d\n",
            s->given, s->bad_end);
    for (int cpu = 0; cpu < r->m->type->cpus; cpu++) {
        uint64_t count = guest_results(r->m, cpu);
        uint64_t i = count > 40 ? count - 40 : 0;

        fprintf(stderr, "fuzz: vCPU %d:", cpu);
        for (; i < count; i++) {
            uint64_t status;
            uint8_t value[8];
            int at;

            guest_result(r->m, cpu, i, &status, value);
            at = source_find(s, value);
            fprintf(stderr, "%s %d%s", i == r->begin[cpu] ? " |" : "",
                    status ? -1 : at,
                    !status && at >= 0 && s->repeats[at] ? " again" : "");
        }
        fprintf(stderr, "\n");
    }
}

/*
 * The eight bytes that @cpu got must be bytes of the source, not delivered
 * before, and in order. If a daemon hung up, bytes may have been lost in the
 * middle of a word. Of a word that is given many times, the guest gets one at
 * most, each time that the device begins to test the source.
 */
static void check_value(Run *r, int cpu, const uint8_t value[8])
{
    Source *s = r->m->source;
    int at = source_find(s, value);
    int stream = at / SOURCE_MAX;

    if (at < 0 && r->seams++ < s->hang_ups) {
        return;
    }
    if (at < 0) {
        failed(r->m, "vCPU %d got what the source did not give", cpu);
    }
    for (int i = at; i < at + 8; i++) {
        if (s->delivered[i] && s->repeats[i] && s->twice < s->beginnings) {
            s->twice++;
            return;
        }
        if (s->delivered[i]) {
            failed(r->m, "vCPU %d got byte %d, which was delivered before",
                   cpu, i);
        }
        s->delivered[i] = true;
    }
    if (at <= r->last[cpu][stream]) {
        show_order(r);
        failed(r->m, "vCPU %d got byte %d after byte %d", cpu, at,
               r->last[cpu][stream]);
    }
    r->last[cpu][stream] = at;
    if (stream) {
        return;
    }
    if (at >= s->bad_end + WINDOW) {
        s->bad_end = 0;
    }
    r->first = r->delivered && r->first < at ? r->first : at;
    r->end = r->end > at + 8 ? r->end : at + 8;
    r->delivered += 8;
}

static void check_results(Run *r)
{
    for (int cpu = 0; cpu < r->m->type->cpus; cpu++) {
        uint64_t count = guest_results(r->m, cpu);

        for (; r->seen[cpu] < count; r->seen[cpu]++) {
            uint64_t status;
            uint8_t value[8];

            guest_result(r->m, cpu, r->seen[cpu], &status, value);
            if (status == H_SUCCESS) {
                check_value(r, cpu, value);
            } else if (status != H_HARDWARE || !r->m->type->times_out) {
                failed(r->m, "vCPU %d got status %lld", cpu,
                       (long long)status);
            }
        }
        if (guest_is_damaged(r->m, cpu)) {
            failed(r->m, "a call of vCPU %d changed r5 to r12", cpu);
        }
    }
}

static void get_statistics(Machine *m)
{
    static const char *const names[] = {
        "calls", "bytes", "waits", "wait-time", "timeouts", "throttled"
    };

    for (int i = 0; i < 6; i++) {
        if (machine_property(m, names[i]) < 0) {
            failed(m, "%s is negative", names[i]);
        }
    }
}

/* Values of a new call come after all values that any vCPU has got before. */
static void catch_up(Run *r, int cpu)
{
    for (int stream = 0; stream < STREAMS; stream++) {
        for (int other = 0; other < r->m->type->cpus; other++) {
            int at = r->last[other][stream];

            if (at > r->last[cpu][stream]) {
                r->last[cpu][stream] = at;
            }
        }
    }
}

static void step_call(Run *r, int calls)
{
    for (int cpu = 0; cpu < r->m->type->cpus; cpu++) {
        if (guest_is_done(r->m, cpu)) {
            check_results(r);
            catch_up(r, cpu);
            r->called[cpu] += calls;
            guest_call(r->m, cpu, calls);
            return;
        }
    }
}

/* Part of a word, and bytes that a deleted backend has read, are lost. */
static void step_swap(Run *r)
{
    r->lossy = true;
    r->m->source->beginnings++;
    source_feed_other(r->m->source);
    machine_use(r->m, !r->m->uses_other);
}

static void step(Run *r, const Step *step)
{
    Machine *m = r->m;

    switch (step->verb) {
    case CALL:
        step_call(r, step->number);
        break;
    case FEED:
        source_feed(m->source, step->number);
        break;
    case REPEAT:
    case STUCK:
        r->lossy = true;
        source_feed_bad(m->source, step->number, step->verb == STUCK);
        break;
    case WAIT:
        for (int64_t end = now_ms() + step->number; now_ms() < end;) {
            source_serve(m->source);
            usleep(1000);
        }
        break;
    case STOP:
        machine_command(m, "stop", "");
        break;
    case CONT:
        machine_command(m, "cont", "");
        break;
    case RESET:
        r->lossy = true;
        machine_reset(m);
        break;
    case GET:
        get_statistics(m);
        break;
    case SWAP:
        step_swap(r);
        break;
    case DEL:
        m->source->thief |= m->uses_other;
        machine_delete_backend(m);
        break;
    case SAVE:
        machine_save(m);
        machine_command(m, "cont", "");
        break;
    case MOVE:
        if (m->type->cpus == 1) {
            r->lossy = true;
            m->source->beginnings++;
            machine_move(m);
        }
        break;
    case END:
        r->lossy |= m->type->egd;
        source_end(m->source);
        break;
    case FAIL:
        r->lossy |= m->type->egd;
        source_fail(m->source);
        break;
    case SLOW:
        source_slow(m->source, step->number);
        break;
    case HANG:
        source_hang(m->source);
        break;
    case HEAL:
        source_heal(m->source);
        break;
    case VERBS:
        break;
    }
}

static bool all_done(Machine *m)
{
    for (int cpu = 0; cpu < m->type->cpus; cpu++) {
        if (!guest_is_done(m, cpu)) {
            return false;
        }
    }
    return true;
}

/* End all trouble, and give bytes until each call has returned. */
static void settle(Run *r)
{
    int64_t patience = patience_begin();

    source_heal(r->m->source);
    if (r->m->uses_other) {
        machine_use(r->m, false);
    }
    machine_command(r->m, "cont", "");
    while (!all_done(r->m)) {
        if (source_unread(r->m->source) < 8) {
            /* After bad bytes, the device throws a window of good ones away. */
            source_feed(r->m->source, r->m->source->bad_end ? WINDOW : 64);
        }
        source_serve(r->m->source);
        if (patience_is_over(patience)) {
            failed(r->m, "calls are not answered within %d ms", HANG_MS);
        }
        usleep(500);
    }
}

/* Compare the numbers of calls, results and bytes. */
static void check_sums(Run *r)
{
    int64_t answers = 0;

    for (int cpu = 0; cpu < r->m->type->cpus; cpu++) {
        uint64_t results = r->seen[cpu] - r->begin[cpu];

        if (r->lossy ? results < r->called[cpu] : results != r->called[cpu]) {
            failed(r->m, "vCPU %d made %lld calls and got %lld answers", cpu,
                   (long long)r->called[cpu], (long long)results);
        }
        answers += results;
    }
    if (r->lossy) {
        return;
    }
    if (r->delivered && r->end - r->first != r->delivered) {
        failed(r->m, "of bytes %d to %d of the source, %d were delivered",
               r->first, r->end, r->delivered);
    }
    if (machine_property(r->m, "calls") - r->answered != answers) {
        failed(r->m, "the device says that it answered other than %lld calls",
               (long long)answers);
    }
}

static Machine *get_machine(int number)
{
    char path[sizeof(directory) + 32];

    if (machines[number] && source_is_low(machines[number]->source)) {
        machine_end(machines[number]);
        machines[number] = NULL;
    }
    if (!machines[number]) {
        snprintf(path, sizeof(path), "%s/%s", directory,
                 machine_types[number].name);
        mkdir(path, 0700);
        machines[number] = machine_start(&machine_types[number], path);
    }
    return machines[number];
}

/* Start an input. Bytes of the previous input may still be delivered. */
static Run begin(int number)
{
    Run r = { .m = get_machine(number) };
    Source *source = r.m->source;

    memset(qemus_counters, 0, EDGES_MAX);
    source->credit = 0;
    source->hang_ups = source->hang_ups > 0;
    r.lossy = source->bad_end || source->thief;
    source->thief = false;
    machine_reset(r.m);
    r.answered = machine_property(r.m, "calls");
    for (int cpu = 0; cpu < r.m->type->cpus; cpu++) {
        r.begin[cpu] = r.seen[cpu] = guest_results(r.m, cpu);
        r.last[cpu][0] = r.last[cpu][1] = -1;
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Program p = parse(data, size);
    Run r;

    if (tracing) {
        fprintf(stderr, "machine %s\n", machine_types[p.machine].name);
    }
    r = begin(p.machine);
    for (int i = 0; i < p.length; i++) {
        if (tracing) {
            char text[20];

            print_step(text, &p.steps[i]);
            fputs(text, stderr);
        }
        step(&r, &p.steps[i]);
        steps_done[p.steps[i].verb]++;
    }
    settle(&r);
    check_results(&r);
    check_sums(&r);
    memcpy(counters, qemus_counters, EDGES_MAX);
    return 0;
}

static void end_all(void)
{
    char path[sizeof(directory) + 32];

    for (int i = 0; i < VERBS; i++) {
        fprintf(stderr, "%s: %d\n", verbs[i].name, steps_done[i]);
    }
    for (int i = 0; i < MACHINES; i++) {
        if (machines[i]) {
            machine_end(machines[i]);
            snprintf(path, sizeof(path), "%s/%s", directory,
                     machine_types[i].name);
            rmdir(path);
        }
    }
    rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *tmp = getenv("TMPDIR");
    int fd = open(getenv("FUZZ_COUNTERS"), O_RDWR);

    (void)argc;
    (void)argv;
    if (fd < 0 || ftruncate(fd, EDGES_MAX) < 0) {
        perror("FUZZ_COUNTERS");
        exit(1);
    }
    qemus_counters = mmap(NULL, EDGES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED,
                          fd, 0);
    snprintf(directory, sizeof(directory), "%s/h_random-XXXXXX",
             tmp ? tmp : "/tmp");
    if (qemus_counters == MAP_FAILED || !mkdtemp(directory)) {
        perror(directory);
        exit(1);
    }
    tracing = getenv("FUZZ_TRACE");
    atexit(end_all);
    return 0;
}
