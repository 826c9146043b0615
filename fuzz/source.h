/*
 * The source of a fuzzed machine: a FIFO or an EGD daemon
 *
 * All bytes are remembered, so that a value that the guest got tells which
 * bytes it is made of. There are two streams of bytes. The second stream is
 * that of another FIFO, which can replace the first source.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#define SOURCE_MAX (1 << 20)
#define STREAMS 2
#define CONNECTIONS 4

typedef struct Source {
    bool egd;
    char *path;
    uint8_t stream[STREAMS * SOURCE_MAX];   /* all bytes that can be given */
    bool delivered[STREAMS * SOURCE_MAX];   /* which bytes the guest has got */
    bool repeats[STREAMS * SOURCE_MAX];     /* bytes of a repeated word */
    int given;                      /* bytes given of the first stream */
    int bad_end;                    /* end of the last bad bytes in it */
    int other_given;                /* bytes given of the second stream */
    char *other_path;
    int other_fd;

    int fd;                         /* the FIFO; -1: without a writer */
    volatile int *control;          /* shared with testlib/failing-read.c */
    char *control_path;

    int listener;                   /* -1: there is no daemon */
    int connection[CONNECTIONS];    /* -1: none */
    int owed[CONNECTIONS];          /* bytes asked for and not given yet */
    int credit;                     /* bytes that the daemon may give */
    int hang_ups;                   /* how often bytes may have been lost */
    int beginnings;                 /* how often QEMU started to test it */
    int twice;                      /* repeated words delivered again */
    bool thief;                     /* a deleted backend may still read */
} Source;

Source *source_new(const char *directory, bool egd);
void source_free(Source *s);

/* Give @size more bytes; a daemon gives them when it is asked. */
void source_feed(Source *s, int size);

/*
 * Give @words bad words: all the same, or if @stuck, different words whose
 * first bytes are the same. The caller has to give good words afterwards.
 */
void source_feed_bad(Source *s, int words, bool stuck);

/* Give more of the second stream. */
void source_feed_other(Source *s);

/* Let each read of a FIFO take @ms milliseconds, or never return. */
void source_slow(Source *s, int ms);
void source_hang(Source *s);

/* Close the FIFO, or end the daemon. */
void source_end(Source *s);

/* Let reads of the FIFO fail, or let the daemon hang up once. */
void source_fail(Source *s);

/* End all trouble. */
void source_heal(Source *s);

/* How many bytes of a FIFO are unread, or how many bytes a daemon may give. */
int source_unread(Source *s);

/* Whether a stream is more than half used up. */
bool source_is_low(Source *s);

/* Accept connections and serve requests, if the source is a daemon. */
void source_serve(Source *s);

/*
 * The first position of @value, which is in the second stream from SOURCE_MAX
 * on; -1: the bytes are in no stream.
 */
int source_find(Source *s, const uint8_t value[8]);

#endif
