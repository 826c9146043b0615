/*
 * In the Linux guest: measure how long CPU 1 takes to answer an interrupt
 *
 *   ipi-times COUNT FILE
 *
 * CPU 0 sends COUNT interrupts to CPU 1, and waits for each answer. Meanwhile,
 * CPU 1 reads 64 bytes of FILE. The read begins when the program gets a line
 * on the standard input: Linux draws random numbers whenever it starts a
 * program or a thread, so the source can be made dry only afterwards. The
 * interrupts begin after a second line. The output is the median and the worst
 * time in microseconds, and whether CPU 1 was busy after the last answer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_bool go, over;

static void run_on(int number)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(number, &set);
    if (sched_setaffinity(0, sizeof(set), &set)) {
        err(1, "sched_setaffinity");
    }
}

static void *run_cpu1(void *arg)
{
    int fd = *(int *)arg;
    char bytes[64];

    run_on(1);
    while (!go) {
        usleep(1000);
    }
    if (read(fd, bytes, sizeof(bytes)) != sizeof(bytes)) {
        err(1, "read");
    }
    over = true;
    return NULL;
}

/* A file: each read of it interrupts CPU 1, and waits for the answer. */
static int open_cpu1(void)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK,
        .size = sizeof(attr),
    };
    int fd = syscall(SYS_perf_event_open, &attr, -1, 1, -1, 0);

    if (fd < 0) {
        err(1, "perf_event_open");
    }
    return fd;
}

static int compare(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;

    return (x > y) - (x < y);
}

int main(int, char **argv)
{
    int count = atoi(argv[1]);
    int fd = open(argv[2], O_RDONLY);
    int event = open_cpu1();
    long *times = calloc(count, sizeof(*times));
    pthread_t thread;

    run_on(0);
    if (pthread_create(&thread, NULL, run_cpu1, &fd)) {
        err(1, "pthread_create");
    }
    puts("ready");
    fflush(stdout);
    getchar();
    go = true;
    getchar();

    for (int i = 0; i < count; i++) {
        struct timespec start, end;
        long long value;

        usleep(rand() % 10000); /* independent of when CPU 1 answers */
        clock_gettime(CLOCK_MONOTONIC, &start);
        if (read(event, &value, sizeof(value)) != sizeof(value)) {
            err(1, "read");
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        times[i] = (end.tv_sec - start.tv_sec) * 1000000 +
                   (end.tv_nsec - start.tv_nsec) / 1000;
    }
    qsort(times, count, sizeof(*times), compare);
    printf("median %ld worst %ld %s\n", times[count / 2], times[count - 1],
           over ? "idle" : "busy");
    fflush(stdout);
    pthread_join(thread, NULL);
    if (!over) {
        errx(1, "CPU 1 got no bytes"); /* Linux has ended the thread. */
    }
    return 0;
}
