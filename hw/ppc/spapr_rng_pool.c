/*
 * sPAPR random number generator: bytes on their way to the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/ppc/spapr_rng_pool.h"
#include "system/replay.h"
#include "trace.h"

#define WORD_SIZE SPAPR_RNG_WORD_SIZE

/* How soon a source that gave bad bytes is read again */
#define RETRY_MS 20

/* Move the bytes that are left to the front of the pool, and wipe the rest. */
static void pool_compact(SpaprRngPool *pool)
{
    uint32_t level = spapr_rng_pool_level(pool);

    memmove(pool->data, pool->data + pool->pos, level);
    memset(pool->data + level, 0, pool->end - level);
    pool->pos = 0;
    pool->end = level;
}

/* Throw away all whole words, but keep the first bytes of an incomplete one. */
static void pool_discard_words(SpaprRngPool *pool)
{
    pool->pos = QEMU_ALIGN_DOWN(pool->end, WORD_SIZE);
    pool_compact(pool);
}

/* Report bad bytes, and delay the next read: QEMU would spin otherwise. */
static void pool_report_fault(SpaprRngPool *pool)
{
    trace_spapr_rng_bad(pool->health.found);
    rng_backend_trouble(pool->backend, RNG_BAD,
                        "%s; all bytes are thrown away until %d words are good",
                        pool->health.found, SPAPR_RNG_HEALTH_WINDOW);
    if (replay_mode == REPLAY_MODE_NONE) {
        timer_mod(pool->retry, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                               RETRY_MS);
    }
}

/* Test the words that new bytes completed, of which the first is at @first. */
static void pool_test(SpaprRngPool *pool, uint32_t first)
{
    bool failed = pool->health.failed;
    bool good = spapr_rng_health_test(&pool->health, pool->data + first,
                                      (pool->end - first) / WORD_SIZE);

    if (failed || !good) {
        pool_discard_words(pool);
    }
    if (!good) {
        pool_report_fault(pool);
    } else if (!pool->health.failed) {
        rng_backend_well(pool->backend, RNG_BAD);
    }
}

/* @size bytes were added to the pool, which had been compacted. */
static void pool_added(SpaprRngPool *pool, uint32_t size)
{
    uint32_t first = QEMU_ALIGN_DOWN(pool->end, WORD_SIZE);

    pool->end += size;
    if (size == pool->read_size) {
        /* The source gave as much as was wanted: read ahead more next time. */
        pool->read_size = MIN(pool->read_size * 2, pool->size);
    }
    if (pool->health_test) {
        pool_test(pool, first);
    }
    if (spapr_rng_pool_level(pool) >= WORD_SIZE) {
        pool->dry = false;
    }
}

/*
 * A source that has failed is read a whole window at a time, of which no byte
 * is kept. Not so under record and replay: a replay must ask for as many bytes
 * as the recording did, and a snapshot does not contain @failed.
 */
static bool pool_wants_window(SpaprRngPool *pool)
{
    return pool->health.failed && replay_mode == REPLAY_MODE_NONE;
}

/* How many bytes the pool may hold. */
static uint32_t pool_limit(SpaprRngPool *pool)
{
    return pool_wants_window(pool) ? SPAPR_RNG_POOL_MAX : pool->size;
}

/* How many bytes to ask for now. */
static uint32_t pool_wanted(SpaprRngPool *pool)
{
    return (pool_wants_window(pool) ? SPAPR_RNG_POOL_MAX : pool->read_size) -
           pool->end;
}

/*
 * A call that waits may find a word now. A source that has failed is read even
 * if no call waits, so that its recovery is noticed.
 */
static void pool_go_on(SpaprRngPool *pool)
{
    if (pool->health.failed) {
        spapr_rng_pool_fill(pool);
    }
    if (!spapr_rng_pool_starves(pool)) {
        pool->ready(pool->opaque);
    }
}

/* The backend answers the request. */
static void pool_receive(void *opaque, const void *data, size_t size)
{
    SpaprRngPool *pool = opaque;

    trace_spapr_rng_receive(size);
    pool->requested = false;
    pool_compact(pool);
    size = MIN(size, pool_limit(pool) - pool->end);
    memcpy(pool->data + pool->end, data, size);
    pool_added(pool, size);
    pool_go_on(pool);
}

static void pool_retry(void *opaque)
{
    pool_go_on(opaque);
}

/*
 * Under record and replay, the guest's time stands still while the guest waits,
 * so a request could wait for ever. The log has the result of each try_read(),
 * even if that is no bytes: let the repeated hypercall read again instead.
 */
static bool pool_may_request(SpaprRngPool *pool)
{
    return !timer_pending(pool->retry) &&
           (replay_mode == REPLAY_MODE_NONE ||
            !RNG_BACKEND_GET_CLASS(pool->backend)->try_read);
}

void spapr_rng_pool_fill(SpaprRngPool *pool)
{
    uint32_t size, wanted;

    if (spapr_rng_pool_starves(pool)) {
        return;
    }

    pool_compact(pool);
    wanted = pool_wanted(pool);
    size = rng_backend_try_read(pool->backend, pool->data + pool->end, wanted);
    trace_spapr_rng_read(size, wanted);
    if (size) {
        pool_added(pool, size);
    }
    if (spapr_rng_pool_level(pool) < WORD_SIZE && pool_may_request(pool)) {
        pool->requested = true;
        wanted = pool_wanted(pool);
        trace_spapr_rng_request(wanted);
        rng_backend_request_entropy(pool->backend, wanted, pool_receive, pool);
    }
}

/* Cancel the request to the backend, and forget the state of its source. */
static void pool_detach(SpaprRngPool *pool)
{
    rng_backend_cancel(pool->backend, pool);
    timer_del(pool->retry);
    memset(&pool->health, 0, sizeof(pool->health));
    pool->requested = false;
    pool->dry = false;
    pool->read_size = WORD_SIZE;
}

void spapr_rng_pool_set_backend(SpaprRngPool *pool, RngBackend *backend)
{
    uint32_t words;

    pool_detach(pool);
    pool_compact(pool);
    words = QEMU_ALIGN_DOWN(pool->end, WORD_SIZE);
    memset(pool->data + words, 0, pool->end - words);
    pool->end = words;
    pool->backend = backend;
}

void spapr_rng_pool_drop(SpaprRngPool *pool)
{
    memset(pool->data, 0, sizeof(pool->data));
    pool->pos = 0;
    pool->end = 0;
    pool->read_size = WORD_SIZE;
    pool->dry = false;
}

void spapr_rng_pool_init(SpaprRngPool *pool)
{
    /*
     * Under record and replay, nothing is read ahead: loading a snapshot during
     * a replay empties the pool, but the log has its bytes only once.
     */
    if (replay_mode != REPLAY_MODE_NONE) {
        pool->size = WORD_SIZE;
    }
    pool->retry = timer_new_ms(QEMU_CLOCK_REALTIME, pool_retry, pool);
    spapr_rng_pool_drop(pool);
}

void spapr_rng_pool_destroy(SpaprRngPool *pool)
{
    pool_detach(pool);
    spapr_rng_pool_drop(pool);
    g_clear_pointer(&pool->retry, timer_free);
}
