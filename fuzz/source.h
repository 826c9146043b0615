/*
 * What a fuzzed machine draws from: a FIFO, or an EGD daemon
 *
 * Each byte that was ever given is remembered, so that eight that the guest got
 * tell where they come from.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SOURCE_H
#define SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#define SOURCE_MAX (1 << 20)
#define CONNECTIONS 4

typedef struct Source {
    bool egd;
    char *path;
    uint8_t stream[SOURCE_MAX];     /* all that can be given */
    bool delivered[SOURCE_MAX];     /* what the guest has got of it */
    int given;                      /* how much of it was given */

    int fd;                         /* the FIFO, -1 where it is at its end */
    volatile int *failure;          /* shared with checks/failing-read.c */
    char *failure_path;

    int listener;                   /* -1: nobody can connect */
    int connection[CONNECTIONS];    /* -1: none */
    int owed[CONNECTIONS];          /* bytes asked for and not given yet */
    int credit;                     /* how many may be given */
    int hang_ups;                   /* how often bytes may have got lost */
} Source;

Source *source_new(const char *directory, bool egd);
void source_free(Source *s);

/* Give @size more bytes; of a daemon, to who asks for them. */
void source_feed(Source *s, int size);

/* No writer any more; no daemon any more. */
void source_end(Source *s);

/* Have reads fail; have the daemon hang up, once. */
void source_fail(Source *s);

/* All is well again. */
void source_heal(Source *s);

/* How many bytes were given that nobody has read; for a daemon, its credit. */
int source_unread(Source *s);

/* Do what a daemon has to do now. */
void source_serve(Source *s);

/* Where in the stream these eight bytes are, -1 for nowhere */
int source_find(Source *s, const uint8_t value[8]);

#endif
