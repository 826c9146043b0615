/*
 * Coverage of a QEMU that is fuzzed, shared with another process
 *
 * Linked into QEMU. clang has instrumented the code that fuzz/instrumented
 * lists. FUZZ_COUNTERS names a file with a byte for each edge of that code,
 * which counts how often the edge was taken. Without FUZZ_COUNTERS, nothing is
 * counted.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile uint8_t *counters;
static uint32_t size;
static uint32_t edges;

static void map_counters(void)
{
    const char *path = getenv("FUZZ_COUNTERS");
    struct stat st;
    void *map;
    int fd;

    if (!path) {
        return;
    }
    fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &st) < 0) {
        abort();
    }
    map = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        abort();
    }
    close(fd);
    size = st.st_size;
    counters = map;
}

/* Called for each object file when the program starts. */
void __sanitizer_cov_trace_pc_guard_init(uint32_t *start, uint32_t *stop)
{
    if (!edges) {
        map_counters();
    }
    for (uint32_t *guard = start; guard < stop; guard++) {
        if (!*guard) {
            *guard = ++edges;
        }
    }
}

/* Threads may overwrite counts of each other, but a count never becomes 0. */
void __sanitizer_cov_trace_pc_guard(uint32_t *guard)
{
    if (counters && *guard < size) {
        counters[*guard]++;
    }
}
