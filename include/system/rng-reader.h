/*
 * A thread that reads a file, so that no holder of the BQL has to
 *
 * read(2) can sleep in spite of O_NONBLOCK: a hardware generator takes
 * milliseconds for a few bytes, and a network file system may never answer. So
 * each reader has a thread of its own. The owner of the reader takes bytes that
 * the thread has read, and is told when there are more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_RNG_READER_H
#define SYSTEM_RNG_READER_H

typedef struct RngReader RngReader;

/**
 * rng_reader_new:
 * @fd: the file to read, which from now on belongs to the reader
 * @bh: scheduled when a read that the owner waits for has ended, with bytes or
 *      with an error: after rng_reader_take() has returned 0, or after
 *      rng_reader_again()
 *
 * Starts the thread of the reader, which inherits the affinity and the priority
 * of the calling thread: not to be called in the thread of a vCPU. Nothing is
 * read before the first rng_reader_take().
 *
 * Returns: a reader, for rng_reader_free()
 */
RngReader *rng_reader_new(int fd, QEMUBH *bh);

/**
 * rng_reader_free:
 * @r: the reader
 *
 * Does not wait for a pending read: the thread closes the file and frees the
 * memory when that read ends. The bottom half is not scheduled any more.
 */
void rng_reader_free(RngReader *r);

/**
 * rng_reader_take:
 * @r: the reader
 * @buf: where the bytes go
 * @size: how many bytes @buf has room for, at least 1
 * @ahead: whether bytes may be read ahead for the next call
 *
 * Take bytes that have been read already, and let the thread read more if
 * needed. Never waits for a read, and may be called from any thread.
 *
 * Returns: the number of bytes stored, 0 to @size. No other caller gets these
 * bytes, and the reader keeps no copy of them.
 */
size_t rng_reader_take(RngReader *r, void *buf, size_t size, bool ahead);

/**
 * rng_reader_error:
 * @r: the reader
 *
 * The reader stops at an error, and goes on when rng_reader_again() is called.
 *
 * Returns: 0; or the errno of the last read, which is ENODATA at the end of the
 * file
 */
int rng_reader_error(RngReader *r);

/**
 * rng_reader_again:
 * @r: the reader
 *
 * Clear the error, and read again.
 */
void rng_reader_again(RngReader *r);

#endif /* SYSTEM_RNG_READER_H */
