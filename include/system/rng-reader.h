/*
 * Read-ahead thread for files whose read(2) may block
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_RNG_READER_H
#define SYSTEM_RNG_READER_H

/* The most bytes that a reader holds */
#define RNG_READER_MAX 16384

typedef struct RngReader RngReader;

/**
 * rng_reader_new:
 * @name: the name of the owner, for the name of the thread
 * @filename: the file to read; a terminal is set to raw mode
 * @timer: fires if rng_reader_take() has returned 0: when a read ends, with
 *         bytes or with an error, and if rng_reader_start() is to be called
 * @errp: set if the file cannot be opened
 *
 * Returns: a reader, for rng_reader_free(); NULL on error
 */
RngReader *rng_reader_new(const char *name, const char *filename,
                          QEMUTimer *timer, Error **errp);

/**
 * rng_reader_free:
 * @r: the reader, or NULL
 *
 * Does not wait for a pending read: the thread closes the file and frees the
 * memory when that read ends. From now on, the timer is left alone.
 */
void rng_reader_free(RngReader *r);

/**
 * rng_reader_start:
 * @r: the reader
 *
 * Create the thread, unless there is one. It inherits the affinity and priority
 * of the calling thread, which should be the main thread. If the host allows
 * no more threads, rng_reader_take() says so, and the timer fires again.
 */
void rng_reader_start(RngReader *r);

/**
 * rng_reader_take:
 * @r: the reader
 * @buf: where the bytes go
 * @size: how many bytes @buf has room for, at least 1
 * @ahead: how many bytes may be read for the next call, if this one gets any
 * @fault: set to why the last read failed, for a message, or to NULL. The
 *         thread goes on reading after errors while a caller waits
 *
 * Take bytes that have been read already, or read Linux's /dev/urandom, which
 * always has bytes. Never waits for a read. Needs the BQL. May be called from
 * any thread.
 *
 * Returns: the number of bytes stored, 0 to @size. No other caller gets these
 * bytes, and the reader keeps no copy of them.
 */
size_t rng_reader_take(RngReader *r, void *buf, size_t size, size_t ahead,
                       const char **fault);

#endif /* SYSTEM_RNG_READER_H */
