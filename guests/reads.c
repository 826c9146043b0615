/*
 * In the Linux guest: measure the latency and the throughput of /dev/hwrng
 *
 *   reads READERS SECONDS
 *
 * Each reader, on its own vCPU, reads 8 bytes at a time, which is one H_RANDOM
 * call, for SECONDS or SAMPLES times; then it reads 4096 bytes at a time. The
 * output is in ticks of the time base.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLES 65536
#define BLOCK 4096

static struct reader {
    uint64_t start, end, count;
    uint32_t ticks[SAMPLES];
} *readers;

static int readers_count, hwrng;
static uint64_t duration;

static uint64_t now(void)
{
    return __builtin_ppc_get_timebase();
}

/* Read @size bytes at a time. */
static void run(struct reader *r, size_t size)
{
    char data[BLOCK];

    r->count = 0;
    r->start = now();
    do {
        uint64_t before = now();

        if (read(hwrng, data, size) != (ssize_t)size) {
            err(1, "/dev/hwrng gave less than %zu bytes", size);
        }
        r->end = now();
        r->ticks[r->count++] = r->end - before;
    } while (r->count < SAMPLES && r->end - r->start < duration);
}

/* Let all readers run at the same time. */
static void run_all(size_t size)
{
    for (int i = 0; i < readers_count; i++) {
        if (fork() == 0) {
            cpu_set_t cpu;

            CPU_ZERO(&cpu);
            CPU_SET(i, &cpu);
            if (sched_setaffinity(0, sizeof(cpu), &cpu)) {
                err(1, "there is no vCPU %d", i);
            }
            run(&readers[i], size);
            _exit(0);
        }
    }
    for (int i = 0; i < readers_count; i++) {
        int status;

        if (wait(&status) < 0 || status) {
            errx(1, "a reader failed");
        }
    }
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print_durations(void)
{
    static const int thousandths[] = { 500, 990, 999, 1000 };
    uint32_t *ticks = malloc(readers_count * sizeof(readers->ticks));
    uint64_t count = 0;

    for (int i = 0; i < readers_count; i++) {
        for (uint64_t j = 0; j < readers[i].count; j++) {
            ticks[count++] = readers[i].ticks[j];
        }
    }
    qsort(ticks, count, sizeof(ticks[0]), compare);
    for (int i = 0; i < 4; i++) {
        printf(" %u", ticks[(count * thousandths[i] + 999) / 1000 - 1]);
    }
    printf(" %ju", (uintmax_t)count);
}

static void print_throughput(void)
{
    uint64_t count = 0, start = UINT64_MAX, end = 0;

    for (int i = 0; i < readers_count; i++) {
        count += readers[i].count;
        start = readers[i].start < start ? readers[i].start : start;
        end = readers[i].end > end ? readers[i].end : end;
    }
    printf(" %ju %ju\n", (uintmax_t)count * BLOCK, (uintmax_t)(end - start));
}

int main(int, char **argv)
{
    readers_count = atoi(argv[1]);
    duration = atof(argv[2]) * 512000000;
    hwrng = open("/dev/hwrng", O_RDONLY);
    readers = mmap(NULL, sizeof(*readers) * readers_count,
                   PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (hwrng < 0 || readers == MAP_FAILED) {
        err(1, "/dev/hwrng");
    }

    printf("result");
    fflush(stdout);
    run_all(8);
    print_durations();
    fflush(stdout);
    run_all(BLOCK);
    print_throughput();
    return 0;
}
