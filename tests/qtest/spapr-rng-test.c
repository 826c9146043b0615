/*
 * QTest testcase for the sPAPR random number generator (H_RANDOM)
 *
 * A small guest program makes real hypercalls under TCG, on as many vCPUs as a
 * test needs, and writes the results to its memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "libqtest.h"
#include "ppc-util.h"
#include "qobject/qdict.h"
#include <glib/gstdio.h>
#include <libfdt.h>
#include <sys/ioctl.h>
#include "spapr-rng/hcalls.h"
#include "spapr-rng/hcalls-image.h"
#include "spapr-rng/papr.h"

#define MACHINE "-accel tcg -nodefaults -S -m 256M " \
                "-machine pseries," PSERIES_DEFAULT_CAPABILITIES " "

#define BUILTIN "-object rng-builtin,id=r "

#define IMAGE      0x100    /* the image, and vCPU 0's entry point */
#define CAS_ARGS   0x5000
#define CAS_BUFFER 0x100000
#define CAS_BUFFER_SIZE 0x100000
#define RESULTS(cpu) (((cpu) + 1) * 0x100000) /* r3 and r4 of each call */

/*
 * A step that takes longer hangs, even on a slow and busy host: normally, no
 * step takes a second, and a command that must not wait for entropy takes a few
 * milliseconds.
 */
#define LIMIT_US (60 * G_USEC_PER_SEC)
#define PROMPT_US (10 * G_USEC_PER_SEC)

#define NS_PER_MS 1000000

typedef struct Result {
    uint64_t status;
    uint64_t value;
} Result;

typedef struct Source {
    char *name;
    int fd;
} Source;

/* The words of a source, all different, are those of splitmix64. */
static uint64_t word(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ULL;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static void source_write(Source *s, unsigned first, unsigned words)
{
    for (unsigned i = first; i < first + words; i++) {
        uint64_t be = cpu_to_be64(word(i));

        g_assert_cmpint(write(s->fd, &be, sizeof(be)), ==, sizeof(be));
    }
}

static Source source_file(unsigned words)
{
    Source s;

    s.fd = g_file_open_tmp("spapr-rng-XXXXXX", &s.name, NULL);
    g_assert_cmpint(s.fd, >=, 0);
    source_write(&s, 0, words);
    return s;
}

/* A pipe: a source that gives nothing until the test writes to it. */
static Source source_fifo(void)
{
    Source s = source_file(0);

    close(s.fd);
    g_assert_cmpint(unlink(s.name), ==, 0);
    g_assert_cmpint(mkfifo(s.name, 0600), ==, 0);
    s.fd = open(s.name, O_RDWR);
    g_assert_cmpint(s.fd, >=, 0);
    return s;
}

static void source_free(Source *s)
{
    close(s->fd);
    unlink(s->name);
    g_free(s->name);
}

/* The address of a field in the block of vCPU @cpu: see hcalls.h */
static uint64_t guest_field(unsigned cpu, unsigned field)
{
    return BLOCKS + cpu * BLOCK_SIZE + field;
}

static uint64_t guest_get(QTestState *qts, unsigned cpu, unsigned field)
{
    return qtest_readq(qts, guest_field(cpu, field));
}

static void guest_set(QTestState *qts, unsigned cpu, unsigned field,
                      uint64_t value)
{
    qtest_writeq(qts, guest_field(cpu, field), value);
}

/* Have the idle vCPU @cpu make calls, whose results replace earlier ones. */
static void guest_call(QTestState *qts, unsigned cpu, unsigned calls)
{
    guest_set(qts, cpu, COUNT, 0);
    guest_set(qts, cpu, CALLS, calls);
    guest_set(qts, cpu, GO, guest_get(qts, cpu, DONE) + 1);
}

/*
 * Lay out the program for @cpus vCPUs that make @calls hypercalls each. The VM
 * must be stopped, and not have run since its start or reset.
 */
static void guest_load(QTestState *qts, unsigned cpus, unsigned calls)
{
    for (size_t i = 0; i < ARRAY_SIZE(hcalls_image); i++) {
        qtest_writel(qts, IMAGE + i * 4, hcalls_image[i]);
    }
    qtest_writeq(qts, CPUS, cpus);
    qtest_memset(qts, BLOCKS, 0, cpus * BLOCK_SIZE);
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        guest_set(qts, cpu, OPCODE, H_RANDOM);
        guest_set(qts, cpu, RECORD, NOTE);
        guest_set(qts, cpu, INTERVAL, TB_HZ / 1000);
        guest_call(qts, cpu, calls);
    }
}

/* Have vCPUs take decrementer interrupts during their calls. */
static void guest_interrupt(QTestState *qts, unsigned cpus)
{
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        guest_set(qts, cpu, INTERRUPTS, true);
    }
}

static void guest_start(QTestState *qts, unsigned cpus, unsigned calls)
{
    guest_load(qts, cpus, calls);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
}

static bool guest_done(QTestState *qts, unsigned cpus)
{
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        if (guest_get(qts, cpu, DONE) != guest_get(qts, cpu, GO)) {
            return false;
        }
    }
    return true;
}

/* Sleep for a millisecond; fail if the guest hangs since @start. */
static void keep_waiting(int64_t start)
{
    g_assert_cmpint(g_get_monotonic_time() - start, <, LIMIT_US);
    g_usleep(1000);
}

/* Wait until all calls are answered. No call may have changed r5..r12. */
static void guest_wait(QTestState *qts, unsigned cpus)
{
    int64_t start = g_get_monotonic_time();

    while (!guest_done(qts, cpus)) {
        keep_waiting(start);
    }
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        g_assert_cmphex(guest_get(qts, cpu, DAMAGE), ==, 0);
    }
}

/* The results of the first @n calls of vCPU @cpu */
static Result *guest_results(QTestState *qts, unsigned cpu, unsigned n)
{
    Result *r = g_new(Result, n);

    qtest_bufread(qts, RESULTS(cpu), r, n * sizeof(*r));
    for (unsigned i = 0; i < n; i++) {
        r[i].status = be64_to_cpu(r[i].status);
        r[i].value = be64_to_cpu(r[i].value);
    }
    return r;
}

static Result guest_result(QTestState *qts, unsigned cpu)
{
    g_autofree Result *r = guest_results(qts, cpu, 1);

    return *r;
}

/* The command must not wait for the source. */
static void prompt_qmp(QTestState *qts, const char *command)
{
    int64_t start = g_get_monotonic_time();

    qtest_qmp_assert_success(qts, "{ 'execute': %s }", command);
    g_assert_cmpint(g_get_monotonic_time() - start, <, PROMPT_US);
}

static void prompt_quit(QTestState *qts)
{
    int64_t start = g_get_monotonic_time();

    qtest_quit(qts);
    g_assert_cmpint(g_get_monotonic_time() - start, <, PROMPT_US);
}

/* Stop and reset. The next guest_start() loads the program again. */
static void guest_reset(QTestState *qts)
{
    prompt_qmp(qts, "stop");
    prompt_qmp(qts, "system_reset");
    qtest_qmp_eventwait(qts, "RESET");
}

static void test_absent(void)
{
    QTestState *qts = qtest_init(MACHINE);

    guest_start(qts, 1, 1);
    guest_wait(qts, 1);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_FUNCTION);
    qtest_quit(qts);
}

/* Three words of a good source are all different, and none is 0. */
static void test_value(const void *backend)
{
    QTestState *qts = qtest_initf(MACHINE "-object %s,id=r "
                                  "-device spapr-rng,rng=r",
                                  (const char *)backend);

    g_autofree Result *r = NULL;

    guest_start(qts, 1, 3);
    guest_wait(qts, 1);
    r = guest_results(qts, 0, 3);
    for (int i = 0; i < 3; i++) {
        g_assert_cmphex(r[i].status, ==, H_SUCCESS);
        g_assert_cmphex(r[i].value, !=, 0);
        g_assert_cmphex(r[i].value, !=, r[(i + 1) % 3].value);
    }
    qtest_quit(qts);
}

/* -seed makes rng-builtin repeat itself. */
static void test_seed(void)
{
    const unsigned calls = 100;
    Result *r[2];

    for (int run = 0; run < 2; run++) {
        QTestState *qts = qtest_init(MACHINE "-seed 42 " BUILTIN
                                     "-device spapr-rng,rng=r");

        guest_start(qts, 1, calls);
        guest_wait(qts, 1);
        r[run] = guest_results(qts, 0, calls);
        qtest_quit(qts);
    }
    g_assert_cmpmem(r[0], calls * sizeof(Result), r[1], calls * sizeof(Result));
    g_assert_cmphex(r[0][0].value, !=, r[0][1].value);
    g_free(r[0]);
    g_free(r[1]);
}

typedef struct OrderCase {
    const char *name;
    const char *accel;
    unsigned cpus;
    unsigned pool_size;
} OrderCase;

static const OrderCase order_cases[] = {
    { "1-cpu", "tcg", 1, 4096 },
    { "1-cpu/pool-8", "tcg", 1, 8 },
    { "1-cpu/pool-27", "tcg", 1, 27 },
    { "4-cpus", "tcg,thread=multi", 4, 4096 },
    { "4-cpus/pool-8", "tcg,thread=multi", 4, 8 },
    { "4-cpus/single-thread", "tcg,thread=single", 4, 64 },
};

/*
 * Every word of the source reaches the guest, once, and each vCPU gets its
 * words in the order in which the source gave them.
 */
static void test_order(const void *data)
{
    const OrderCase *c = data;
    const unsigned calls = 20000, total = c->cpus * calls;
    Source src = source_file(total);
    unsigned next[4] = { 0 };
    Result *r[4];
    QTestState *qts;

    qts = qtest_initf("-accel %s " MACHINE "-smp %u "
                      "-object rng-random,filename=%s,id=r "
                      "-device spapr-rng,rng=r,pool-size=%u",
                      c->accel, c->cpus, src.name, c->pool_size);
    guest_start(qts, c->cpus, calls);
    guest_wait(qts, c->cpus);

    for (unsigned cpu = 0; cpu < c->cpus; cpu++) {
        r[cpu] = guest_results(qts, cpu, calls);
    }
    for (unsigned i = 0; i < total; i++) {
        unsigned cpu = 0;

        while (next[cpu] == calls || r[cpu][next[cpu]].value != word(i)) {
            cpu++;
            g_assert_cmpuint(cpu, <, c->cpus);
        }
        g_assert_cmphex(r[cpu][next[cpu]].status, ==, H_SUCCESS);
        next[cpu]++;
    }

    for (unsigned cpu = 0; cpu < c->cpus; cpu++) {
        g_free(r[cpu]);
    }
    qtest_quit(qts);
    source_free(&src);
}

/* What the pool holds at a reset is lost; nothing is handed out twice. */
static void test_reset(void)
{
    Source src = source_file(1000);
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,pool-size=64,"
                                  "health-test=off",
                                  src.name);
    g_autofree Result *r = NULL;
    uint64_t next;
    unsigned i = 0;

    guest_start(qts, 1, 8);
    guest_wait(qts, 1);
    r = guest_results(qts, 0, 8);
    g_assert_cmphex(r[0].value, ==, word(0));
    g_assert_cmphex(r[7].value, ==, word(7));
    guest_reset(qts);
    guest_start(qts, 1, 1);
    guest_wait(qts, 1);
    next = guest_result(qts, 0).value;
    while (word(i) != next) {
        g_assert_cmpuint(++i, <, 1000);
    }
    g_assert_cmpuint(i, >=, 8);
    qtest_quit(qts);
    source_free(&src);
}

/* Nothing is read before the first H_RANDOM. */
static void test_idle(void)
{
    Source src = source_fifo();
    int unread;
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r", src.name);

    g_assert_cmpint(write(src.fd, "untouched", 9), ==, 9);
    guest_load(qts, 1, 1000);
    guest_set(qts, 0, OPCODE, H_UNASSIGNED);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    guest_wait(qts, 1);
    qtest_quit(qts);
    g_assert_cmpint(ioctl(src.fd, FIONREAD, &unread), ==, 0);
    g_assert_cmpint(unread, ==, 9);
    source_free(&src);
}

typedef struct WaitCase {
    const char *name;
    const char *options;
    unsigned cpus;
} WaitCase;

static const WaitCase wait_cases[] = {
    { "1-cpu", "-accel tcg", 1 },
    { "4-cpus", "-accel tcg,thread=multi -smp 4", 4 },
    { "4-cpus/single-thread", "-accel tcg,thread=single -smp 4", 4 },
    { "icount", "-icount shift=auto", 1 },
    { "4-cpus/icount", "-icount shift=auto -smp 4", 4 },
};

/*
 * Each vCPU that waits takes interrupts, obeys stop, reset and quit, and gets a
 * word of its own.
 */
static void test_wait(const void *data)
{
    const WaitCase *c = data;
    Source src = source_fifo();
    QTestState *qts = qtest_initf("%s " MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,timeout=0,"
                                  "health-test=off",
                                  c->options, src.name);
    int64_t start;

    guest_load(qts, c->cpus, 1);
    guest_interrupt(qts, c->cpus);
    prompt_qmp(qts, "cont");
    start = g_get_monotonic_time();
    for (unsigned cpu = 0; cpu < c->cpus; cpu++) {
        while (guest_get(qts, cpu, TICKS) < 20) {
            keep_waiting(start);
        }
    }
    prompt_qmp(qts, "stop");
    prompt_qmp(qts, "cont");
    guest_reset(qts);
    guest_start(qts, c->cpus, 1);
    g_usleep(100000);
    g_assert_false(guest_done(qts, c->cpus));
    prompt_qmp(qts, "stop");
    source_write(&src, 0, c->cpus);
    prompt_qmp(qts, "cont");
    guest_wait(qts, c->cpus);
    for (unsigned i = 0; i < c->cpus; i++) {
        unsigned owners = 0;

        for (unsigned cpu = 0; cpu < c->cpus; cpu++) {
            Result r = guest_result(qts, cpu);

            g_assert_cmphex(r.status, ==, H_SUCCESS);
            owners += r.value == word(i);
        }
        g_assert_cmpuint(owners, ==, 1);
    }

    guest_reset(qts);
    guest_start(qts, c->cpus, 1);
    g_usleep(100000);
    prompt_quit(qts);
    source_free(&src);
}

/* Have vCPU 0, which takes interrupts and has made its calls, make one more. */
static void guest_call_again(QTestState *qts)
{
    guest_call(qts, 0, 1);
    guest_wait(qts, 1);
}

/* Run vCPU 0, which takes interrupts, to its end: the time in microseconds */
static int64_t guest_run_us(QTestState *qts)
{
    int64_t start;

    guest_interrupt(qts, 1);
    start = g_get_monotonic_time();
    prompt_qmp(qts, "cont");
    guest_wait(qts, 1);
    return g_get_monotonic_time() - start;
}

/*
 * Without bytes, a call fails after the timeout, and further calls fail at
 * once. New bytes serve the next call; the call after it waits for the timeout
 * again.
 */
static void test_timeout(void)
{
    const unsigned calls = 100;
    Source src = source_fifo();
    g_autofree Result *r = NULL;
    int64_t start, us;
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,timeout=500,"
                                  "health-test=off",
                                  src.name);

    guest_load(qts, 1, calls);
    us = guest_run_us(qts);
    g_assert_cmpint(us, >=, 500 * 1000);
    g_assert_cmpint(us, <, calls * 500 * 1000 / 2);
    r = guest_results(qts, 0, calls);
    for (unsigned i = 0; i < calls; i++) {
        g_assert_cmphex(r[i].status, ==, H_HARDWARE);
    }

    source_write(&src, 1, 1);
    g_usleep(100000);
    guest_call_again(qts);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_SUCCESS);
    g_assert_cmphex(guest_result(qts, 0).value, ==, word(1));

    start = g_get_monotonic_time();
    guest_call_again(qts);
    g_assert_cmpint(g_get_monotonic_time() - start, >=, 500 * 1000);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_HARDWARE);
    prompt_quit(qts);
    source_free(&src);
}

static uint64_t statistic(QTestState *qts, const char *name)
{
    QDict *resp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': { "
                            "'path': '/machine/peripheral/hrandom', "
                            "'property': %s } }", name);
    uint64_t value = qdict_get_int(resp, "return");

    qobject_unref(resp);
    return value;
}

/* A guest that exceeds its quota waits until the next word is due. */
static void test_quota(const void *options)
{
    const unsigned calls = 500;
    int64_t us;
    g_autofree Result *r = NULL;
    Source src = source_file(calls);
    QTestState *qts = qtest_initf("%s " MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,id=hrandom,"
                                  "max-bytes=8000,period=1000",
                                  (const char *)options, src.name);

    guest_load(qts, 1, calls);
    us = guest_run_us(qts);
    /* A word each millisecond, but for the first 51 */
    g_assert_cmpint(us, >=, (calls - 51) * 1000);
    g_assert_cmpint(us, <, 10 * calls * 1000);
    r = guest_results(qts, 0, calls);
    for (unsigned i = 0; i < calls; i++) {
        g_assert_cmphex(r[i].status, ==, H_SUCCESS);
        g_assert_cmphex(r[i].value, ==, word(i));
    }
    g_assert_cmpint(guest_get(qts, 0, TICKS), >, 20);
    g_assert_cmpuint(statistic(qts, "throttled"), >, 20);
    prompt_quit(qts);
    source_free(&src);
}

/*
 * A word each 200 ms is enough for one vCPU whose calls time out after 200 ms,
 * but not for four.
 */
static void test_quota_timeout(const void *data)
{
    const unsigned cpus = GPOINTER_TO_UINT(data), calls = 3;
    unsigned words = 0;
    Source src = source_file(1000);
    QTestState *qts = qtest_initf("-accel tcg,thread=multi " MACHINE "-smp %u "
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,id=hrandom,"
                                  "timeout=200,max-bytes=40,period=1000",
                                  cpus, src.name);

    guest_start(qts, cpus, calls);
    guest_wait(qts, cpus);
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        g_autofree Result *r = guest_results(qts, cpu, calls);

        for (unsigned i = 0; i < calls; i++) {
            if (r[i].status == H_SUCCESS) {
                words++;
            } else {
                g_assert_cmphex(r[i].status, ==, H_HARDWARE);
            }
        }
    }
    g_assert_cmpuint(words, >=, 1);
    if (cpus == 1) {
        g_assert_cmpuint(words, ==, calls);
    } else {
        g_assert_cmpuint(words, <, cpus * calls);
        g_assert_cmpuint(statistic(qts, "waits"), >, 0);
        g_assert_cmpuint(statistic(qts, "wait-time"), >=, 200 * NS_PER_MS);
    }
    g_assert_cmpuint(statistic(qts, "calls"), ==, cpus * calls);
    g_assert_cmpuint(statistic(qts, "bytes"), ==, words * sizeof(uint64_t));
    g_assert_cmpuint(statistic(qts, "timeouts"), ==, cpus * calls - words);
    g_assert_cmpuint(statistic(qts, "throttled"), <=, statistic(qts, "waits"));
    prompt_quit(qts);
    source_free(&src);
}

/*
 * Statistics count every call, and a reset does not clear them. A call that
 * waits is in "waits" from its first try on, and in "wait-time" up to its last
 * try.
 */
static void test_statistics(void)
{
    Source src = source_fifo();
    uint64_t time, waits;
    int64_t start;
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,id=hrandom,"
                                  "timeout=0,pool-size=16,"
                                  "health-test=off", src.name);

    /* 10 calls read 1 + 5 * 2 words. The reset drops the last one. */
    source_write(&src, 0, 11);
    guest_start(qts, 1, 10);
    guest_wait(qts, 1);
    g_assert_cmpuint(statistic(qts, "calls"), ==, 10);
    g_assert_cmpuint(statistic(qts, "bytes"), ==, 80);
    /* A call may have to wait until the backend's thread has read the pipe. */
    waits = statistic(qts, "waits");
    g_assert_cmpuint(waits, <=, 10);

    guest_reset(qts);
    g_assert_cmpuint(statistic(qts, "calls"), ==, 10);
    g_assert_cmpuint(statistic(qts, "bytes"), ==, 80);
    guest_start(qts, 1, 1);
    start = g_get_monotonic_time();
    while (statistic(qts, "waits") == waits) {
        keep_waiting(start);
    }
    time = statistic(qts, "wait-time");
    while (statistic(qts, "wait-time") < time + 100 * NS_PER_MS) {
        keep_waiting(start);
    }
    time = statistic(qts, "wait-time");
    guest_reset(qts);
    g_assert_cmpuint(statistic(qts, "wait-time"), >=, time);
    g_assert_cmpuint(statistic(qts, "waits"), ==, waits + 1);
    g_assert_cmpuint(statistic(qts, "calls"), ==, 10);
    g_assert_cmpuint(statistic(qts, "bytes"), ==, 80);
    g_assert_cmpuint(statistic(qts, "timeouts"), ==, 0);
    g_assert_cmpuint(statistic(qts, "throttled"), ==, 0);
    prompt_quit(qts);
    source_free(&src);
}

/* If reads of the source fail, calls time out. */
static void test_read_error(void)
{
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,timeout=100",
                                  g_get_tmp_dir());

    guest_start(qts, 1, 1);
    guest_wait(qts, 1);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_HARDWARE);
    prompt_quit(qts);
}

/* At the end of a file, a call waits until the file grows. */
static void test_end_of_file(void)
{
    Source src = source_file(1);
    g_autofree Result *r = NULL;
    int64_t start;
    QTestState *qts = qtest_initf(MACHINE
                                  "-object rng-random,filename=%s,id=r "
                                  "-device spapr-rng,rng=r,timeout=0,"
                                  "health-test=off",
                                  src.name);

    guest_start(qts, 1, 2);
    start = g_get_monotonic_time();
    while (guest_result(qts, 0).value != word(0)) {
        keep_waiting(start);
    }
    g_usleep(200000);
    g_assert_false(guest_done(qts, 1));
    source_write(&src, 1, 1);
    guest_wait(qts, 1);
    r = guest_results(qts, 0, 2);
    g_assert_cmphex(r[1].status, ==, H_SUCCESS);
    g_assert_cmphex(r[1].value, ==, word(1));
    qtest_quit(qts);
    source_free(&src);
}

static void *dump_device_tree(QTestState *qts)
{
    Source file = source_file(0);
    char *fdt;

    qtest_qmp_assert_success(qts, "{ 'execute': 'dumpdtb', 'arguments': "
                             "{ 'filename': %s } }", file.name);
    g_assert_true(g_file_get_contents(file.name, &fdt, NULL, NULL));
    g_assert_cmpint(fdt_check_header(fdt), ==, 0);
    source_free(&file);
    return fdt;
}

/* Whether ibm,hypertas-functions, a list of strings, has @name. */
static bool has_hypertas(const void *fdt, const char *name)
{
    return fdt_stringlist_search(fdt, fdt_path_offset(fdt, "/rtas"),
                                 "ibm,hypertas-functions", name) >= 0;
}

/* Bit 0 of byte 17 of option vector 5. The vector's length precedes byte 1. */
static bool has_option_vector_bit(const void *fdt)
{
    int len;
    const uint8_t *vector = fdt_getprop(fdt, fdt_path_offset(fdt, "/chosen"),
                                        "ibm,architecture-vec-5", &len);

    g_assert_nonnull(vector);
    return len > 17 && vector[17] & 0x80;
}

/* The device tree after negotiation, in which the guest may ask for the bit */
static void *negotiate(const char *device, bool asks)
{
    uint8_t args[] = {
        0, 0, 0, 0, 0, 0, 0, 0, /* any processor */
        0, 0, 0, 0, 0, 0, 0, 1, /* no other one */
        5 - 1,                  /* vectors - 1; each: length - 1, ... */
        1 - 1, 0, 1 - 1, 0, 1 - 1, 0, 1 - 1, 0,
        17 - 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        asks ? 0x80 : 0,
    };
    QTestState *qts = qtest_initf(MACHINE BUILTIN "%s", device);
    void *fdt;

    guest_load(qts, 1, 1);
    guest_set(qts, 0, OPCODE, H_CAS);
    guest_set(qts, 0, RECORD, 0);
    guest_set(qts, 0, ARGUMENT, CAS_ARGS);
    guest_set(qts, 0, ARGUMENT_R5, CAS_BUFFER);
    guest_set(qts, 0, ARGUMENT_R6, CAS_BUFFER_SIZE);
    qtest_memwrite(qts, CAS_ARGS, args, sizeof(args));
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    guest_wait(qts, 1);
    g_assert_cmphex(guest_get(qts, 0, OUTCOME), ==, H_SUCCESS);
    fdt = dump_device_tree(qts);
    qtest_quit(qts);
    return fdt;
}

static void test_device_tree(void)
{
    const char *parent_path = "/ibm,platform-facilities";
    const char *path = "/ibm,platform-facilities/ibm,random-v1";
    g_autofree void *with = negotiate("-device spapr-rng,rng=r", true);
    g_autofree void *not_asked = negotiate("-device spapr-rng,rng=r", false);
    g_autofree void *without = negotiate("", true);
    int parent = fdt_path_offset(with, parent_path);
    int node = fdt_path_offset(with, path);

    g_assert_cmpint(parent, >, 0);
    g_assert_cmpint(node, >, 0);
    g_assert_cmpstr(fdt_getprop(with, parent, "name", NULL), ==,
                    "ibm,platform-facilities");
    g_assert_cmpstr(fdt_getprop(with, parent, "device_type", NULL), ==,
                    "ibm,platform-facilities");
    g_assert_cmpint(fdt_address_cells(with, parent), ==, 1);
    g_assert_cmpint(fdt_size_cells(with, parent), ==, 0);
    g_assert_cmpstr(fdt_getprop(with, node, "compatible", NULL), ==,
                    "ibm,random");
    g_assert_cmpstr(fdt_getprop(with, node, "status", NULL), ==, "okay");
    g_assert_null(fdt_getprop(with, node, "reg", NULL));

    g_assert_true(has_hypertas(with, "hcall-random"));
    g_assert_true(has_option_vector_bit(with));
    g_assert_false(has_option_vector_bit(not_asked));

    g_assert_cmpint(fdt_path_offset(without, parent_path), ==,
                    -FDT_ERR_NOTFOUND);
    g_assert_true(has_hypertas(without, "hcall-watchdog"));
    g_assert_false(has_hypertas(without, "hcall-random"));
    g_assert_false(has_option_vector_bit(without));
}

/* Run QEMU to its end; returns its exit status. */
static int run_qemu(const char *options, char **out, char **err)
{
    g_autofree char *command = g_strdup_printf("%s -nodefaults -display none "
                                               "-S %s",
                                               getenv("QTEST_QEMU_BINARY"),
                                               options);
    int status;

    g_assert_true(g_spawn_command_line_sync(command, out, err, &status, NULL));
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/*
 * Properties of the device, and further options. @error and @hint are glob
 * patterns. Errors of QEMU's core have no hint.
 */
typedef struct BadCase {
    const char *name;
    const char *properties;
    const char *error;
    const char *hint;
    const char *machine;
} BadCase;

static const BadCase bad_cases[] = {
    { "no-backend", "", "no source of random numbers", "-object rng-random" },
    { "no-such-backend", "rng=x", "'x' not found", NULL },
    { "not-a-backend", "rng=thread", "rng-backend", NULL },
    { "two", "rng=r -device spapr-rng,rng=r", "only one spapr-rng", "but one" },
    { "not-kvm", "use-kvm=true", "needs the KVM accelerator", "rng=ID" },
    { "not-pseries", "rng=r", "needs a pseries machine", "-machine pseries",
      "none" },
    { "pool-too-small", "rng=r,pool-size=7", "pool-size=7 is out of range",
      "8 to 16384" },
    { "pool-too-large", "rng=r,pool-size=16385",
      "pool-size=16385 is out of range", "8 to 16384" },
    { "no-bytes", "rng=r,max-bytes=0", "max-bytes=0 is out of range",
      "leave max-bytes out" },
    { "too-many-bytes", "rng=r,max-bytes=9223372036854775808",
      "max-bytes=9223372036854775808 is out of range", "2^63 - 1" },
    { "no-period", "rng=r,max-bytes=1,period=0", "period=0 is out of range",
      "1 to 2^32 - 1" },
    { "word-after-timeout", "rng=r,max-bytes=100",
      "max-bytes=100*5243 ms*timeout=5000", "max-bytes=105*timeout=5243" },
    { "word-after-timeout/period", "rng=r,max-bytes=39,period=1000,timeout=200",
      "max-bytes=39*206 ms*timeout=200", "max-bytes=40*timeout=206" },
    { "quota-of-kvm", "rng=r,max-bytes=1,use-kvm=true",
      "max-bytes and use-kvm=true", "one of them" },
    { "quota-recorded",
      "rng=r,max-bytes=1 -icount shift=7,rr=record,rrfile=/dev/null",
      "record and replay", "both runs" },
};

static void assert_contains(const char *text, const char *glob)
{
    g_autofree char *pattern = g_strdup_printf("*%s*", glob);

    if (!g_pattern_match_simple(pattern, text)) {
        g_test_message("'%s' is not in '%s'", glob, text);
        g_test_fail();
    }
}

/* One line names the option and the mistake; a hint says what to do. */
static void test_bad(const void *data)
{
    const BadCase *c = data;
    /* If the options are accepted, the missing snapshot ends QEMU. */
    g_autofree char *options = g_strdup_printf(
        "-accel tcg -machine %s -object iothread,id=thread " BUILTIN
        "-device spapr-rng,%s -loadvm none",
        c->machine ?: "pseries," PSERIES_DEFAULT_CAPABILITIES, c->properties);
    g_autofree char *out = NULL, *err = NULL;
    char *error, *hint;

    g_assert_cmpint(run_qemu(options, &out, &err), ==, 1);
    g_assert_cmpstr(out, ==, "");
    error = strstr(err, "-device spapr-rng");
    g_assert_nonnull(error);
    hint = strchr(error, '\n');
    g_assert_nonnull(hint);
    *hint++ = '\0';
    assert_contains(error, c->error);
    if (c->hint) {
        assert_contains(hint, c->hint);
    } else {
        g_assert_cmpstr(hint, ==, "");
    }
}

/* Help lists the properties, and the device in its category. */
static void test_help(void)
{
    static const char *const properties[] = {
        "rng=<link<rng-backend>> - ", "use-kvm=<bool> ", "timeout=<uint32> ",
        "pool-size=<uint32> ", "max-bytes=<uint64> ", "period=<uint32> ",
        "health-test=<bool> ", "in-kernel=<bool> ", "calls=<uint64> ",
        "bytes=<uint64> ", "waits=<uint64> ", "wait-time=<uint64> ",
        "timeouts=<uint64> ", "throttled=<uint64> ",
    };
    g_autofree char *out = NULL, *err = NULL;
    char *section, *end;

    g_assert_cmpint(run_qemu("-device spapr-rng,help", &out, &err), ==, 0);
    g_assert_cmpstr(err, ==, "");
    for (int i = 0; i < ARRAY_SIZE(properties); i++) {
        g_assert_nonnull(strstr(out, properties[i]));
    }
    g_clear_pointer(&out, g_free);
    g_clear_pointer(&err, g_free);

    g_assert_cmpint(run_qemu("-device help", &out, &err), ==, 0);
    g_assert_cmpstr(err, ==, "");
    section = strstr(out, "Misc devices:");
    g_assert_nonnull(section);
    end = strstr(section, "\n\n");
    if (end) {
        *end = '\0';
    }
    g_assert_nonnull(strstr(section, "\"spapr-rng\""));
}

static void test_backend_in_use(void)
{
    QTestState *qts = qtest_init(MACHINE BUILTIN "-device spapr-rng,rng=r "
                                 "-object rng-builtin,id=unused");
    QDict *resp = qtest_qmp(qts, "{ 'execute': 'object-del', "
                            "'arguments': { 'id': 'r' } }");

    g_assert_true(qdict_haskey(resp, "error"));
    qobject_unref(resp);
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': 'unused' } }");
    qtest_quit(qts);
}

/* Introspection makes instances, which must not affect the device in use. */
static void test_introspection(void)
{
    QTestState *qts = qtest_init(MACHINE BUILTIN
                                 "-device spapr-rng,rng=r,id=hrandom");

    g_assert_false(qtest_qom_get_bool(qts, "/machine/peripheral/hrandom",
                                      "in-kernel"));
    for (int i = 0; i < 3; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'device-list-properties', "
                                 "'arguments': { 'typename': 'spapr-rng' } }");
    }
    guest_start(qts, 1, 1);
    guest_wait(qts, 1);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_SUCCESS);
    qtest_quit(qts);
}

/* Hotplug is refused: Linux looks for the device only when it boots. */
static void test_device_add(void)
{
    QTestState *qts = qtest_init(MACHINE BUILTIN);
    QDict *resp = qtest_qmp(qts, "{ 'execute': 'device_add', 'arguments': "
                            "{ 'driver': 'spapr-rng', 'rng': 'r' } }");
    QDict *error = qdict_get_qdict(resp, "error");

    g_assert_nonnull(error);
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"), "hotplug"));
    qobject_unref(resp);
    guest_start(qts, 1, 1);
    guest_wait(qts, 1);
    g_assert_cmphex(guest_result(qts, 0).status, ==, H_FUNCTION);
    qtest_quit(qts);
}

int main(int argc, char *argv[])
{
    g_test_init(&argc, &argv, NULL);

    if (!qtest_has_accel("tcg")) {
        g_test_message("SKIP: the guest program needs TCG");
        return 0;
    }

    qtest_add_func("spapr-rng/absent", test_absent);
    qtest_add_data_func("spapr-rng/value/random",
                        "rng-random,filename=/dev/urandom", test_value);
    qtest_add_data_func("spapr-rng/value/builtin", "rng-builtin", test_value);
    qtest_add_func("spapr-rng/seed", test_seed);
    qtest_add_func("spapr-rng/reset", test_reset);
    qtest_add_func("spapr-rng/idle", test_idle);
    qtest_add_func("spapr-rng/timeout", test_timeout);
    qtest_add_data_func("spapr-rng/quota/multi-thread",
                        "-accel tcg,thread=multi", test_quota);
    qtest_add_data_func("spapr-rng/quota/single-thread",
                        "-accel tcg,thread=single", test_quota);
    qtest_add_data_func("spapr-rng/quota/icount", "-icount shift=auto",
                        test_quota);
    qtest_add_data_func("spapr-rng/quota/timeout/1-cpu", GUINT_TO_POINTER(1),
                        test_quota_timeout);
    qtest_add_data_func("spapr-rng/quota/timeout/4-cpus", GUINT_TO_POINTER(4),
                        test_quota_timeout);
    qtest_add_func("spapr-rng/statistics", test_statistics);
    qtest_add_func("spapr-rng/read-error", test_read_error);
    qtest_add_func("spapr-rng/end-of-file", test_end_of_file);
    qtest_add_func("spapr-rng/device-tree", test_device_tree);
    qtest_add_func("spapr-rng/help", test_help);
    qtest_add_func("spapr-rng/introspection", test_introspection);
    qtest_add_func("spapr-rng/device-add", test_device_add);
    qtest_add_func("spapr-rng/backend-in-use", test_backend_in_use);
    for (int i = 0; i < ARRAY_SIZE(order_cases); i++) {
        g_autofree char *path = g_strdup_printf("spapr-rng/order/%s",
                                                order_cases[i].name);
        qtest_add_data_func(path, &order_cases[i], test_order);
    }
    for (int i = 0; i < ARRAY_SIZE(wait_cases); i++) {
        g_autofree char *path = g_strdup_printf("spapr-rng/wait/%s",
                                                wait_cases[i].name);
        qtest_add_data_func(path, &wait_cases[i], test_wait);
    }
    for (int i = 0; i < ARRAY_SIZE(bad_cases); i++) {
        g_autofree char *path = g_strdup_printf("spapr-rng/bad/%s",
                                                bad_cases[i].name);
        qtest_add_data_func(path, &bad_cases[i], test_bad);
    }

    return g_test_run();
}
