/*
 * What a fuzzed machine draws from: a FIFO, or an EGD daemon
 *
 * Each byte that was ever given is remembered, so that eight that the guest got
 * tell where they come from. There are two streams of bytes. The second one is
 * that of another FIFO, which the device may be told to draw from instead.
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
    uint8_t stream[STREAMS * SOURCE_MAX];   /* all that can be given */
    bool delivered[STREAMS * SOURCE_MAX];   /* what the guest has got of it */
    bool repeats[STREAMS * SOURCE_MAX];     /* where the same eight come again */
    int given;                      /* how much of the first was given */
    int bad_end;                    /* where its last bad bytes end */
    int other_given;                /* how much of the second was given */
    char *other_path;
    int other_fd;

    int fd;                         /* the FIFO, -1 where it is at its end */
    volatile int *control;          /* shared with checks/failing-read.c */
    char *control_path;

    int listener;                   /* -1: nobody can connect */
    int connection[CONNECTIONS];    /* -1: none */
    int owed[CONNECTIONS];          /* bytes asked for and not given yet */
    int credit;                     /* how many may be given */
    int hang_ups;                   /* how often bytes may have got lost */
    int beginnings;                 /* how often QEMU began to look at it */
    int twice;                      /* repeated words that came once more */
    bool thief;                     /* a deleted backend may be reading still */
} Source;

Source *source_new(const char *directory, bool egd);
void source_free(Source *s);

/* Give @size more bytes; of a daemon, to who asks for them. */
void source_feed(Source *s, int size);

/*
 * Give @words more words that are bad: the same again and again, or @stuck, all
 * different but for every eighth byte. Good ones have to follow.
 */
void source_feed_bad(Source *s, int words, bool stuck);

/* Give more of the second stream. */
void source_feed_other(Source *s);

/* Have each read take @ms milliseconds; have none return. Not of a daemon. */
void source_slow(Source *s, int ms);
void source_hang(Source *s);

/* No writer any more; no daemon any more. */
void source_end(Source *s);

/* Have reads fail; have the daemon hang up, once. */
void source_fail(Source *s);

/* All is well again. */
void source_heal(Source *s);

/* How many bytes were given that nobody has read; for a daemon, its credit. */
int source_unread(Source *s);

/* Whether there may soon be nothing left to give. */
bool source_is_low(Source *s);

/* Do what a daemon has to do now. */
void source_serve(Source *s);

/* Where these eight bytes are first, -1 for nowhere; from SOURCE_MAX on, they
 * are in the second stream. */
int source_find(Source *s, const uint8_t value[8]);

#endif
