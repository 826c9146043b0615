/*
 * Test what users and programs are told about the source of a backend
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-emit-events.h"
#include "qobject/qdict.h"
#include "qom/object_interfaces.h"
#include "system/rng.h"

#define TYPE_RNG_TEST "rng-test"

typedef struct RngTest {
    RngBackend parent;
} RngTest;

/* The last event, and how many there were since the previous check */
static QDict *event;
static unsigned events;

void qapi_event_emit(QAPIEvent number, QDict *qdict)
{
    g_assert_cmpint(number, ==, QAPI_EVENT_RNG_STATE_CHANGED);
    qobject_unref(event);
    event = qobject_ref(qdict_get_qdict(qdict, "data"));
    events++;
}

/*
 * The linker takes a stub's whole object file or nothing of it: replace all
 * functions of stubs/monitor-core.c.
 */
Monitor *monitor_cur(void)
{
    return NULL;
}

Monitor *monitor_set_cur(Coroutine *co, Monitor *mon)
{
    return NULL;
}

int monitor_vprintf(Monitor *mon, const char *fmt, va_list ap)
{
    return -1; /* It is no human monitor. */
}

static void rng_test_request_entropy(RngBackend *s, RngRequest *req)
{
    /* It is the test that gives the bytes. */
}

static size_t rng_test_try_read(RngBackend *s, void *buf, size_t size)
{
    memset(buf, 0, size);
    return size;
}

static void receive(void *opaque, const void *data, size_t size)
{
}

static void check_event(const char *state, const char *message)
{
    g_assert_cmpuint(events, ==, 1);
    events = 0;
    g_assert_cmpstr(qdict_get_str(event, "id"), ==, "rng0");
    g_assert_cmpstr(qdict_get_str(event, "state"), ==, state);
    g_assert_cmpstr(qdict_get_str(event, "message"), ==, message);
}

static void check_no_event(void)
{
    g_assert_cmpuint(events, ==, 0);
}

static void check_state(RngBackend *s, const char *expected)
{
    g_autofree char *state = object_property_get_str(OBJECT(s), "state",
                                                     &error_abort);

    g_assert_cmpstr(state, ==, expected);
}

static RngBackend *backend_new(void)
{
    return RNG_BACKEND(object_new_with_props(TYPE_RNG_TEST,
                                             object_get_objects_root(), "rng0",
                                             &error_abort, NULL));
}

static void backend_free(RngBackend *s)
{
    g_assert_true(user_creatable_del("rng0", &error_abort));
    qobject_unref(event);
    event = NULL;
    check_no_event();
}

/* As if nothing had been reported for long */
static void forget_reports(RngBackend *s)
{
    s->next_report_ms = 0;
}

/* A source that gives bad bytes is not silent, whatever a front-end thinks. */
static void test_states(void)
{
    RngBackend *s = backend_new();

    check_state(s, "good");
    rng_backend_fault_cleared(s, RNG_STATE_SILENT);
    check_no_event();

    rng_backend_fault(s, RNG_STATE_SILENT, "error %d", 5);
    check_event("silent", "error 5");
    forget_reports(s);
    rng_backend_fault(s, RNG_STATE_SILENT, "error again");
    rng_backend_fault_cleared(s, RNG_STATE_BAD);
    check_no_event();
    check_state(s, "silent");

    rng_backend_fault(s, RNG_STATE_BAD, "zeros");
    check_event("bad", "zeros");
    forget_reports(s);
    rng_backend_fault(s, RNG_STATE_SILENT, "nothing");
    rng_backend_fault_cleared(s, RNG_STATE_SILENT);
    check_no_event();
    check_state(s, "bad");

    rng_backend_fault_cleared(s, RNG_STATE_BAD);
    check_event("good", "gives random data again");
    rng_backend_fault_cleared(s, RNG_STATE_BAD);
    backend_free(s);
}

/* A state that is not reported at once is reported if it lasts. */
static void test_often(void)
{
    RngBackend *s = backend_new();

    rng_backend_fault(s, RNG_STATE_SILENT, "first");
    check_event("silent", "first");
    rng_backend_fault_cleared(s, RNG_STATE_SILENT);
    check_event("good", "gives data again");
    for (int i = 0; i < 10; i++) {
        rng_backend_fault(s, RNG_STATE_SILENT, "soon");
        check_state(s, "silent");
        rng_backend_fault_cleared(s, RNG_STATE_SILENT);
        check_state(s, "good");
    }
    rng_backend_fault(s, RNG_STATE_SILENT, "soon");
    check_no_event();
    g_assert_cmpuint(s->left_out, ==, 21);
    forget_reports(s);
    rng_backend_fault(s, RNG_STATE_SILENT, "late");
    check_event("silent", "late");
    g_assert_cmpuint(s->left_out, ==, 0);

    /* The end is reported if the beginning of another fault was. */
    rng_backend_fault(s, RNG_STATE_BAD, "zeros");
    check_no_event();
    rng_backend_fault_cleared(s, RNG_STATE_BAD);
    check_event("good", "gives random data again");
    backend_free(s);
}

static void test_users(void)
{
    RngBackend *s = backend_new();
    Error *err = NULL;

    rng_backend_attach(s);
    rng_backend_attach(s);
    rng_backend_fault(s, RNG_STATE_BAD, "zeros");
    check_event("bad", "zeros");
    rng_backend_detach(s);
    check_no_event();
    g_assert_false(user_creatable_del("rng0", &err));
    error_free_or_abort(&err);

    rng_backend_untested(s);
    check_event("good", "is not tested any more");
    check_state(s, "good");
    rng_backend_detach(s);
    backend_free(s);
}

/* A front-end that tries gets no byte that a request waits for. */
static void test_try_read(void)
{
    RngBackend *s = backend_new();
    uint8_t byte;

    g_assert_cmpuint(rng_backend_try_read(s, &byte, 1), ==, 1);
    rng_backend_request_entropy(s, 1, receive, NULL);
    g_assert_cmpuint(rng_backend_try_read(s, &byte, 1), ==, 0);
    rng_backend_finalize_request(s, QSIMPLEQ_FIRST(&s->requests));
    g_assert_cmpuint(rng_backend_try_read(s, &byte, 1), ==, 1);
    backend_free(s);
}

static void rng_test_class_init(ObjectClass *oc, void *data)
{
    RngBackendClass *rbc = RNG_BACKEND_CLASS(oc);

    rbc->request_entropy = rng_test_request_entropy;
    rbc->try_read = rng_test_try_read;
}

static const TypeInfo rng_test_info = {
    .name = TYPE_RNG_TEST,
    .parent = TYPE_RNG_BACKEND,
    .instance_size = sizeof(RngTest),
    .class_init = rng_test_class_init,
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    module_call_init(MODULE_INIT_QOM);
    type_register_static(&rng_test_info);
    g_setenv("QTEST_SILENT_ERRORS", "1", true);

    g_test_add_func("/rng-backend/states", test_states);
    g_test_add_func("/rng-backend/often", test_often);
    g_test_add_func("/rng-backend/users", test_users);
    g_test_add_func("/rng-backend/try-read", test_try_read);
    return g_test_run();
}
