/*
 * sPAPR random number generator: bytes on their way to the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_POOL_H
#define HW_PPC_SPAPR_RNG_POOL_H

#include "hw/ppc/spapr_rng_health.h"
#include "qemu/bswap.h"
#include "qemu/timer.h"
#include "system/rng.h"

#define SPAPR_RNG_WORD_SIZE 8 /* bytes */
#define SPAPR_RNG_POOL_MAX 4096 /* bytes */

/**
 * struct SpaprRngPool - bytes on their way from a backend to the guest
 * @backend: where the bytes come from
 * @size: the most bytes read ahead, 8 to SPAPR_RNG_POOL_MAX
 * @health_test: only words that pass the tests of @health are handed out
 * @ready: called when the pool may have a word: when requested bytes have come,
 *         and when a source that failed a test may be read again
 * @opaque: the argument of @ready
 * @data: the bytes from @pos to @end; all others are zero
 * @pos: offset in @data of the first byte that was not handed out yet
 * @end: offset in @data behind the last byte that the backend gave
 * @read_size: how many bytes to ask for next; grows with the guest's demand
 * @requested: a request is pending, which the backend answers by pool_receive()
 * @dry: set by the user of the pool when a wait for a word has timed out;
 *       cleared when the pool has a word
 * @health: the tests that all words of @backend go through
 * @retry: pending after bad bytes; the backend is not read before it fires
 *
 * The BQL protects all fields. The functions below need the BQL.
 */
typedef struct SpaprRngPool {
    RngBackend *backend;
    uint32_t size;
    bool health_test;
    void (*ready)(void *opaque);
    void *opaque;

    uint8_t data[SPAPR_RNG_POOL_MAX];
    uint32_t pos;
    uint32_t end;
    uint32_t read_size;
    bool requested;
    bool dry;

    SpaprRngHealth health;
    QEMUTimer *retry;
} SpaprRngPool;

/**
 * spapr_rng_pool_init:
 * @pool: the pool, of which the caller has set @backend, @size, @health_test,
 *        @ready and @opaque
 *
 * Nothing is read before the first call of spapr_rng_pool_has_word().
 */
void spapr_rng_pool_init(SpaprRngPool *pool);

/**
 * spapr_rng_pool_destroy:
 * @pool: the pool
 *
 * Wipe the bytes, and cancel the request to the backend.
 */
void spapr_rng_pool_destroy(SpaprRngPool *pool);

/**
 * spapr_rng_pool_drop:
 * @pool: the pool
 *
 * Wipe the bytes.
 */
void spapr_rng_pool_drop(SpaprRngPool *pool);

/**
 * spapr_rng_pool_set_backend:
 * @pool: the pool
 * @backend: the new backend
 *
 * Whole words of the previous backend stay in the pool, and are handed out
 * first.
 */
void spapr_rng_pool_set_backend(SpaprRngPool *pool, RngBackend *backend);

/**
 * spapr_rng_pool_fill:
 * @pool: the pool
 *
 * Fill the pool without waiting, or request bytes from the backend.
 */
void spapr_rng_pool_fill(SpaprRngPool *pool);

/**
 * spapr_rng_pool_starves:
 * @pool: the pool
 *
 * Returns: whether the pool can get no bytes before @ready is called
 */
static inline bool spapr_rng_pool_starves(SpaprRngPool *pool)
{
    return pool->requested || timer_pending(pool->retry);
}

/**
 * spapr_rng_pool_level:
 * @pool: the pool
 *
 * Returns: how many bytes the pool has
 */
static inline uint32_t spapr_rng_pool_level(SpaprRngPool *pool)
{
    return pool->end - pool->pos;
}

/**
 * spapr_rng_pool_has_word:
 * @pool: the pool
 *
 * Read the backend if the pool has no word, without waiting.
 *
 * Returns: whether the pool has a word
 */
static inline bool spapr_rng_pool_has_word(SpaprRngPool *pool)
{
    if (unlikely(spapr_rng_pool_level(pool) < SPAPR_RNG_WORD_SIZE)) {
        spapr_rng_pool_fill(pool);
    }
    return spapr_rng_pool_level(pool) >= SPAPR_RNG_WORD_SIZE;
}

/**
 * spapr_rng_pool_take:
 * @pool: a pool that has a word
 *
 * Returns: the word; the first byte of the backend is its most significant one
 */
static inline uint64_t spapr_rng_pool_take(SpaprRngPool *pool)
{
    uint8_t *p = pool->data + pool->pos;
    uint64_t word = ldq_be_p(p);

    stq_be_p(p, 0);
    pool->pos += SPAPR_RNG_WORD_SIZE;
    return word;
}

#endif /* HW_PPC_SPAPR_RNG_POOL_H */
