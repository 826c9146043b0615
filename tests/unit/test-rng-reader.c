/*
 * Test of the thread that reads a file for rng-random
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/ioctl.h>
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "system/rng-reader.h"

/* More reads than there are in the second after which a file is reopened */
#define MANY_RETRIES 60

static char *directory;
static char *path;
static QEMUTimer *timer;
static unsigned fired;
static const char *fault;

static void fire(void *opaque)
{
    fired++;
}

static void wait_for_timer(void)
{
    for (unsigned before = fired; fired == before; ) {
        main_loop_wait(false);
    }
}

static RngReader *reader_new(void)
{
    RngReader *r = rng_reader_new("test", path, timer, &error_abort);

    rng_reader_start(r);
    return r;
}

static void reader_free(RngReader *r)
{
    rng_reader_free(r);
    g_remove(path);
}

/* Returns 0 if a read failed. */
static size_t take(RngReader *r, void *buf, size_t size, size_t ahead)
{
    size_t len;

    while (!(len = rng_reader_take(r, buf, size, ahead, &fault)) &&
           !fault) {
        wait_for_timer();
    }
    return len;
}

static void wait_for_retries(RngReader *r)
{
    uint8_t byte;

    for (unsigned i = 0; i < MANY_RETRIES; i++) {
        g_assert_cmpint(take(r, &byte, 1, 0), ==, 0);
        wait_for_timer();
    }
}

static uint8_t value(size_t i)
{
    return i ^ i >> 8;
}

static void take_values(RngReader *r, size_t i, size_t count, size_t ahead)
{
    uint8_t buf[1000];

    while (count) {
        size_t len = take(r, buf, MIN(count, sizeof(buf)), ahead);

        for (size_t j = 0; j < len; j++) {
            g_assert_cmpint(buf[j], ==, value(i++));
        }
        count -= len;
    }
}

static void write_values(int fd, size_t i, size_t count)
{
    for (; count; count--) {
        uint8_t byte = value(i++);

        g_assert_cmpint(write(fd, &byte, 1), ==, 1);
    }
}

static int fifo_new(void)
{
    int fd;

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    fd = open(path, O_RDWR);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static int unread(int fd)
{
    int count;

    g_assert_cmpint(ioctl(fd, FIONREAD, &count), ==, 0);
    return count;
}

/* Each byte comes once, in order, whatever the sizes of writes and calls. */
static void test_order(void)
{
    int fd = fifo_new();
    RngReader *r = reader_new();
    size_t sum = 0;

    for (size_t size = 1; size < 1000; size += 7) {
        write_values(fd, sum, size);
        take_values(r, sum, size, size % 100);
        sum += size;
    }
    reader_free(r);
    close(fd);
}

/* The reader takes no more from the file than its owner asks for. */
static void check_unread(int size, int ahead)
{
    int fd = fifo_new();
    RngReader *r = reader_new();

    write_values(fd, 0, 800);
    for (int left = 800; left > ahead; left -= size) {
        take_values(r, 800 - left, size, ahead);
        while (unread(fd) > left - size - ahead) {
            g_usleep(1000);
        }
        g_usleep(1000);
        g_assert_cmpint(unread(fd), ==, left - size - ahead);
    }
    reader_free(r);
    close(fd);
}

static void test_ahead(void)
{
    check_unread(8, 0);
    check_unread(50, 300);
}

static void test_end(void)
{
    int fd = fifo_new();
    RngReader *r = reader_new();
    uint8_t byte;

    for (int i = 0; i < 3; i++) {
        write_values(fd, 0, 10);
        take_values(r, 0, 10, 0);
        close(fd);
        g_assert_cmpint(take(r, &byte, 1, 0), ==, 0);
        g_assert_cmpstr(fault, ==, "end of file");
        fd = open(path, O_RDWR);
    }
    close(fd);
    reader_free(r);
}

static void test_directory(void)
{
#ifdef CONFIG_LINUX     /* Other systems may read a directory. */
    RngReader *r;
    uint8_t byte;

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    r = reader_new();
    g_assert_cmpint(take(r, &byte, 1, 0), ==, 0);
    g_assert_cmpstr(fault, ==, strerror(EISDIR));
    reader_free(r);
#endif
}

/* When the name is another file, the reader reads that one. */
static void test_made_anew(void)
{
    int fd = fifo_new();
    RngReader *r = reader_new();

    for (int i = 0; i < 2; i++) {
        write_values(fd, 0, 10);
        take_values(r, 0, 10, 0);
        close(fd);
        g_remove(path);
        wait_for_retries(r);
        fd = fifo_new();
    }
    close(fd);
    reader_free(r);
}

/* A file on a disk that ends does not begin again. */
static void test_file(void)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    RngReader *r = reader_new();

    for (int i = 0; i < 2; i++) {
        write_values(fd, i * 10, 10);
        take_values(r, i * 10, 10, 0);
        wait_for_retries(r);
    }
    close(fd);
    reader_free(r);
}

static void test_no_file(void)
{
    Error *err = NULL;

    g_assert_null(rng_reader_new("test", path, timer, &err));
    error_free_or_abort(&err);
}

static void test_no_thread(void)
{
    int fd = fifo_new();
    RngReader *r = rng_reader_new("test", path, timer, &error_abort);
    uint8_t byte;

    g_assert_cmpint(rng_reader_take(r, &byte, 1, 0, &fault), ==, 0);
    wait_for_timer(); /* The owner is to call rng_reader_start(). */
    reader_free(r);
    close(fd);
}

static void test_urandom(void)
{
#ifdef CONFIG_LINUX
    uint8_t buf[64];
    RngReader *r = rng_reader_new("test", "/dev/urandom", timer, &error_abort);

    /* There is no thread yet. */
    g_assert_cmpint(rng_reader_take(r, buf, sizeof(buf), 0, &fault), ==,
                    sizeof(buf));
    rng_reader_free(r);
    timer_del(timer);
#endif
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    qemu_init_main_loop(&error_abort);
    timer = timer_new_ms(QEMU_CLOCK_REALTIME, fire, NULL);
    directory = g_dir_make_tmp("test-rng-reader-XXXXXX", NULL);
    path = g_build_filename(directory, "source", NULL);

    g_test_add_func("/rng-reader/order", test_order);
    g_test_add_func("/rng-reader/ahead", test_ahead);
    g_test_add_func("/rng-reader/end", test_end);
    g_test_add_func("/rng-reader/directory", test_directory);
    g_test_add_func("/rng-reader/made-anew", test_made_anew);
    g_test_add_func("/rng-reader/file", test_file);
    g_test_add_func("/rng-reader/no-file", test_no_file);
    g_test_add_func("/rng-reader/no-thread", test_no_thread);
    g_test_add_func("/rng-reader/urandom", test_urandom);
    result = g_test_run();

    g_rmdir(directory);
    g_free(path);
    g_free(directory);
    timer_free(timer);
    return result;
}
