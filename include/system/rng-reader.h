/*
 * A thread that reads a file, so that nobody who holds the BQL has to
 *
 * read(2) can sleep, whatever O_NONBLOCK says: a hardware generator takes
 * milliseconds for each few bytes, and a network file system can take for ever.
 * A reader has a thread of its own for that. Whoever wants bytes takes those
 * that the thread has read, and is told when there are more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_RNG_READER_H
#define SYSTEM_RNG_READER_H

typedef struct RngReader RngReader;

/**
 * rng_reader_new:
 * @fd: the file to read, which from now on belongs to the reader
 * @bh: scheduled when a read has ended that somebody waits for: after
 *      rng_reader_take() returned 0 and when bytes have come, or none will
 *
 * Starts the reader's thread, which inherits the affinity and the priority of
 * the calling one: not to be called in a vCPU. Nothing is read before somebody
 * asks for bytes.
 *
 * Returns: a reader, for rng_reader_free()
 */
RngReader *rng_reader_new(int fd, QEMUBH *bh);

/**
 * rng_reader_free:
 * @r: the reader
 *
 * Does not wait for a read that has not ended: the thread then closes the file
 * and frees the memory when the read ends. The bottom half is not scheduled any
 * more.
 */
void rng_reader_free(RngReader *r);

/**
 * rng_reader_take:
 * @r: the reader
 * @buf: where the bytes go
 * @size: how many bytes @buf has room for, at least 1
 * @ahead: whether bytes may be read ahead for the next call
 *
 * Take bytes that have been read already, and have the thread read on if that
 * is fewer than @size. Never waits for a read, and may be called from any
 * thread.
 *
 * Returns: the number of bytes stored, 0 to @size. They are given to nobody
 * else, and no copy of them is kept.
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
 * Forget an error, and read what was asked for.
 */
void rng_reader_again(RngReader *r);

#endif /* SYSTEM_RNG_READER_H */
