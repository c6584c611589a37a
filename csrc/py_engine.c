#include "py_state.h"

#include "clock.h"

#define SELF(object) ((struct py_engine *)(object))

/* ---- deciding and resolving ---- */

/* Wakes who awaits the request.  An exception on the way is theirs: the hook answers for it and
 * fails closed. */
static void
resolve(struct py_request *self)
{
    struct module_state *state = self->engine->state;
    PyObject *flow = self->flow, *future = self->future;
    self->flow = self->future = NULL;
    PyObject *error = NULL;
    if (flow_apply(self, flow) < 0) {
        PyObject *type, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        Py_XDECREF(type);
        Py_XDECREF(traceback);
    }
    PyObject *done = py_call(state, future, NAME_done);
    PyObject *result = NULL;
    if (done == Py_False) {
        result =
            error != NULL
                ? PyObject_CallMethodObjArgs(future, state->names[NAME_set_exception], error, NULL)
                : PyObject_CallMethodObjArgs(future, state->names[NAME_set_result], Py_None, NULL);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    Py_XDECREF(result);
    Py_XDECREF(error);
    Py_DECREF(flow);
    Py_DECREF(future);
    Py_DECREF((PyObject *)self); /* the engine's reference */
}

static void
resolve_decided(struct py_engine *self)
{
    for (struct request *request; (request = engine_take_decided(self->engine)) != NULL;) {
        resolve(request_owner(request));
    }
}

static void
log_notices(struct py_engine *self)
{
    for (struct notice *notice; (notice = engine_take_notice(self->engine)) != NULL;) {
        PyObject *result =
            PyObject_CallFunction(self->log, "iN", (int)notice->level, py_text(notice->text));
        engine_notice_destroy(notice);
        if (result == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(result);
    }
}

/* The loop holds the handle, which holds the engine: without this a stopped engine would stay until
 * the timer fires. */
static void
cancel_expiry(struct py_engine *self)
{
    PyObject *handle = self->expiry_handle;
    self->expiry_handle = NULL;
    self->expiry_ms = CLOCK_NEVER;
    if (handle == NULL) {
        return;
    }
    PyObject *result = py_call(self->state, handle, NAME_cancel);
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(result);
    Py_DECREF(handle);
}

/* Makes sure that `expire` runs when the next one of those who wait has waited long enough. */
static int
arm_expiry(struct py_engine *self)
{
    int64_t next_ms = engine_next_expiry_ms(self->engine);
    if (next_ms >= self->expiry_ms) {
        return 0;
    }
    PyObject *expire = py_get(self->state, (PyObject *)self, NAME_expire);
    double delay = (double)(next_ms - clock_now_ms()) / 1000.0;
    PyObject *handle = expire ? PyObject_CallMethod(self->loop, "call_later", "dO",
                                                    delay > 0 ? delay : 0.0, expire)
                              : NULL;
    Py_XDECREF(expire);
    if (handle == NULL) {
        return -1;
    }
    cancel_expiry(self);
    self->expiry_handle = handle;
    self->expiry_ms = next_ms;
    return 0;
}

/* After begin or retry: applied at once, or a future for later.  New reference, None when there is
 * nothing to await. */
static PyObject *
settle(struct py_request *self, PyObject *flow)
{
    if (request_is_decided(self->request)) {
        return flow_apply(self, flow) < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *future = py_call(self->engine->state, self->engine->loop, NAME_create_future);
    if (future == NULL || arm_expiry(self->engine) < 0) {
        /* Nobody will wait for the answer: take the question back. */
        Py_XDECREF(future);
        engine_finish(self->engine->engine, self->request);
        return NULL;
    }
    self->flow = Py_NewRef(flow);
    self->future = Py_NewRef(future);
    Py_INCREF((PyObject *)self); /* the engine's reference: request_owner */
    return future;
}

/* ---- Engine: requests ---- */

/* The flow's Request; borrowed, NULL without an exception when it has none.  Its engine may be an
 * earlier one, which was replaced when the configuration changed: its permit goes back there. */
static struct py_request *
request_of(struct py_engine *self, PyObject *flow)
{
    PyObject *object = py_get(self->state, flow, NAME__forwarder);
    if (object == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
        }
        return NULL;
    }
    Py_DECREF(object); /* the flow keeps it */
    if (Py_TYPE(object) != self->state->request_type) {
        PyErr_SetString(PyExc_TypeError, "flow._forwarder is not a Request");
        return NULL;
    }
    return (struct py_request *)object;
}

static PyObject *
engine_py_connect(PyObject *object, PyObject *flow)
{
    int found = flow_take_tunnel_token(SELF(object), flow);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static PyObject *
engine_py_begin(PyObject *object, PyObject *flow)
{
    struct py_engine *self = SELF(object);
    struct flow_reading reading;
    PyObject *result = NULL;
    struct py_request *request = NULL;
    if (flow_read(self, flow, &reading) < 0) {
        goto out;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(self->state->request_type, Py_tp_alloc);
    request = (struct py_request *)allocate(self->state->request_type, 0);
    if (request == NULL) {
        goto out;
    }
    request->engine = (struct py_engine *)Py_NewRef(object);
    if (engine_begin(self->engine, &reading.input, request, &request->request)) {
        PyErr_NoMemory();
        goto out;
    }
    /* The user token must be off the flow before anything can fail, and whatever was decided. */
    if (flow_strip(self, &reading, request_takes_authorization(request->request),
                   request_token_to_hide(request->request))
            < 0
        || py_set(self->state, flow, NAME__forwarder, (PyObject *)request) < 0) {
        engine_finish(self->engine, request->request);
        goto out;
    }
    result = settle(request, flow);
out:
    Py_XDECREF((PyObject *)request);
    flow_reading_fini(&reading);
    return result;
}

static PyObject *
engine_py_retry(PyObject *object, PyObject *flow)
{
    struct py_engine *self = SELF(object);
    struct py_request *request = request_of(self, flow);
    if (request == NULL || request_upstream(request->request) == NULL
        || request_is_finished(request->request)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "this flow has no route to be replaced");
        }
        return NULL;
    }
    if (engine_retry(request->engine->engine, request->request)) {
        return PyErr_NoMemory();
    }
    request->retrying = true;
    return settle(request, flow);
}

static PyObject *
engine_py_judge(PyObject *object, PyObject *flow)
{
    struct py_engine *self = SELF(object);
    struct flow_reading reading;
    bool allowed = false;
    PyObject *result = NULL;
    struct py_request *request = request_of(self, flow);
    if (request == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    if (flow_read_target(self, flow, &reading) < 0) {
        flow_reading_fini(&reading);
        return NULL;
    }
    Py_INCREF((PyObject *)request); /* the flow may get another one while others hold the GIL */
    enum err err =
        engine_judge(request->engine->engine, request->request, &reading.input.target, &allowed);
    flow_reading_fini(&reading);
    if (err) {
        PyErr_NoMemory();
    }
    else if (allowed || flow_answer(request, flow) == 0) {
        result = PyBool_FromLong(allowed);
    }
    Py_DECREF((PyObject *)request);
    return result;
}

static PyObject *
engine_py_record(PyObject *object, PyObject *flow)
{
    struct py_engine *self = SELF(object);
    int status;
    struct py_request *request = request_of(self, flow);
    if (request == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_True);
    }
    if (flow_status(self, flow, &status) < 0) {
        return NULL;
    }
    /* Into this engine's spool, also for a request of an earlier engine: that one delivers no more.
     */
    return PyBool_FromLong(engine_record(self->engine, request->request, status) == ERR_OK);
}

static PyObject *
engine_py_leave(PyObject *object, PyObject *flow)
{
    struct py_request *request = request_of(SELF(object), flow);
    if (request == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    engine_leave(request->engine->engine, request->request);
    resolve_decided(request->engine);
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_finish(PyObject *object, PyObject *flow)
{
    struct py_engine *self = SELF(object);
    int status;
    struct py_request *request = request_of(self, flow);
    if (request == NULL || request_is_finished(request->request)) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    engine_finish(request->engine->engine, request->request);
    if (request->future != NULL) {
        resolve(request);
    }
    resolve_decided(request->engine);
    if (flow_status(self, flow, &status) < 0) {
        return NULL;
    }
    PyObject *proxy_id = py_proxy_id(request);
    if (proxy_id == NULL) {
        return NULL;
    }
    return Py_BuildValue("(NNiNLs)", py_text(request_method(request->request)),
                         py_text(request_loggable_url(request->request)), status, proxy_id,
                         (long long)(clock_now_ms() - request_started_ms(request->request)),
                         request_id(request->request));
}

/* ---- Engine: events and life ---- */

static PyObject *
engine_py_fileno(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(engine_fd(SELF(object)->engine));
}

static PyObject *
engine_py_drain(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct py_engine *self = SELF(object);
    engine_drain(self->engine);
    resolve_decided(self);
    log_notices(self);
    /* Whoever waited for the rules may wait for a permit now. */
    return arm_expiry(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
engine_py_expire(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct py_engine *self = SELF(object);
    Py_CLEAR(self->expiry_handle);
    self->expiry_ms = CLOCK_NEVER;
    engine_expire(self->engine);
    resolve_decided(self);
    return arm_expiry(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
engine_py_start(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    enum err err = engine_start(SELF(object)->engine);
    if (err) {
        return PyErr_Format(PyExc_RuntimeError, "the engine's threads could not be started: %s",
                            err_text(err));
    }
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_refuse(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    engine_refuse(SELF(object)->engine);
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_give_up(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    engine_give_up(SELF(object)->engine);
    resolve_decided(SELF(object));
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_record_unfinished(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    engine_record_unfinished(SELF(object)->engine);
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_stop(PyObject *object, PyObject *args)
{
    struct py_engine *self = SELF(object);
    double timeout;
    if (!PyArg_ParseTuple(args, "d:stop", &timeout)) {
        return NULL;
    }
    cancel_expiry(self);
    engine_give_up(self->engine);
    PyThreadState *thread = PyEval_SaveThread();
    engine_halt(self->engine, timeout > 0 ? (int)(timeout * 1000.0) : 0);
    PyEval_RestoreThread(thread);
    engine_stop(self->engine, 0);
    resolve_decided(self);
    log_notices(self);
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_refresh(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    engine_refresh(SELF(object)->engine);
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_set_secrets(PyObject *object, PyObject *args)
{
    const char *system_token, *default_user_jwt;
    if (!PyArg_ParseTuple(args, "sz:set_secrets", &system_token, &default_user_jwt)) {
        return NULL;
    }
    enum err err = engine_set_secrets(SELF(object)->engine, system_token, default_user_jwt);
    if (err) {
        return PyErr_Format(PyExc_ValueError, "the secrets could not be replaced: %s",
                            err_text(err));
    }
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_set_listeners(PyObject *object, PyObject *args)
{
    const char *authorities;
    if (!PyArg_ParseTuple(args, "s:set_listeners", &authorities)) {
        return NULL;
    }
    enum err err = engine_set_listeners(SELF(object)->engine, authorities);
    if (err) {
        return PyErr_Format(PyExc_ValueError, "the listeners could not be set: %s", err_text(err));
    }
    return Py_NewRef(Py_None);
}

static PyObject *
engine_py_test(PyObject *object, PyObject *args)
{
    struct rules *rules;
    struct verdict_desk *desk;
    if (!engine_rules(SELF(object)->engine, &rules, &desk)) {
        return PyErr_Format(PyExc_LookupError, "no rule set was loaded yet");
    }
    PyObject *verdict = py_verdict(rules, desk, args, "s#s#is#:test");
    rules_unref(rules);
    return verdict;
}

static PyObject *
engine_py_stats(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct py_engine *self = SELF(object);
    struct engine_gauges gauges;
    engine_gauges(self->engine, &gauges);
    PyObject *stats = Py_BuildValue(
        "{snsnsnsnsnsnsnsLsLsLsLsLsssi}", "running", (Py_ssize_t)gauges.running, "permits_held",
        (Py_ssize_t)gauges.permits_held, "permits_waiting", (Py_ssize_t)gauges.permits_waiting,
        "rules", (Py_ssize_t)gauges.rules, "rules_always", (Py_ssize_t)gauges.rules_always,
        "rules_quarantined", (Py_ssize_t)gauges.rules_quarantined, "rules_counted",
        (Py_ssize_t)gauges.rules_counted, "rules_age_ms", (long long)gauges.rules_age_ms,
        "spool_depth", (long long)gauges.spool_depth, "spool_dead", (long long)gauges.spool_dead,
        "spool_bytes", (long long)gauges.spool_bytes, "spool_age_ms",
        (long long)gauges.spool_age_ms, "spool_place", gauges.spool_place, "breaker_open",
        (int)gauges.breaker_open);
    for (int i = 0; stats != NULL && i < STATS_COUNT; i++) {
        PyObject *value =
            PyLong_FromUnsignedLongLong(engine_counter(self->engine, (enum stats_counter)i));
        if (value == NULL
            || PyDict_SetItemString(stats, stats_name((enum stats_counter)i), value) < 0) {
            Py_CLEAR(stats);
        }
        Py_XDECREF(value);
    }
    return stats;
}

static PyObject *
rule_counts(const struct rules *rules)
{
    size_t places[RULES_COUNTED_MAX];
    size_t count = rules_counted_places(rules, places);
    PyObject *counts = PyList_New(0);
    for (size_t i = 0; counts != NULL && i < count; i++) {
        struct rules_info info;
        rules_get(rules, places[i], &info);
        PyObject *id = py_from_id(info.id);
        PyObject *row = id == NULL ? NULL
                                   : Py_BuildValue("(NKK)", id, (unsigned long long)info.hits,
                                                   (unsigned long long)info.limits);
        if (row == NULL || PyList_Append(counts, row) < 0) {
            Py_CLEAR(counts);
        }
        Py_XDECREF(row);
    }
    return counts;
}

static PyObject *
engine_py_rule_counts(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    struct rules *rules;
    struct verdict_desk *desk;
    if (!engine_rules(SELF(object)->engine, &rules, &desk)) {
        return PyList_New(0);
    }
    PyObject *counts = rule_counts(rules);
    rules_unref(rules);
    return counts;
}

/* ---- Engine: making one ---- */

static PyObject *
engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"config", "loop", "server",  "route",
                               "answer", "log",  "tunnels", NULL};
    PyObject *config, *loop, *server, *route, *answer, *log, *tunnels;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$OOOOOO:Engine", keywords, &config, &loop,
                                     &server, &route, &answer, &log, &tunnels)) {
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct py_engine *self = (struct py_engine *)allocate(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = PyType_GetModuleState(type);
    self->expiry_ms = CLOCK_NEVER;
    self->loop = Py_NewRef(loop);
    self->server = Py_NewRef(server);
    self->route = Py_NewRef(route);
    self->answer = Py_NewRef(answer);
    self->log = Py_NewRef(log);
    self->tunnels = Py_NewRef(tunnels);
    if (py_create_engine(self, config) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
engine_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct py_engine *self = SELF(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->loop);
    Py_VISIT(self->server);
    Py_VISIT(self->route);
    Py_VISIT(self->answer);
    Py_VISIT(self->log);
    Py_VISIT(self->tunnels);
    Py_VISIT(self->expiry_handle);
    return 0;
}

static int
engine_clear(PyObject *object)
{
    struct py_engine *self = SELF(object);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->server);
    Py_CLEAR(self->route);
    Py_CLEAR(self->answer);
    Py_CLEAR(self->log);
    Py_CLEAR(self->tunnels);
    Py_CLEAR(self->expiry_handle);
    return 0;
}

static void
engine_dealloc(PyObject *object)
{
    struct py_engine *self = SELF(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->engine != NULL) {
        /* Nobody can be waiting: a waiting request keeps its engine alive. */
        engine_stop(self->engine, 0);
        engine_destroy(self->engine);
    }
    (void)engine_clear(object);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_object(object);
    Py_DECREF(type);
}

static PyMethodDef engine_methods[] = {
    {"start", engine_py_start, METH_NOARGS,
     "start($self, /)\n--\n\nStarts the threads and asks for the first rules."},
    {"fileno", engine_py_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nReadable while events wait for drain()."},
    {"drain", engine_py_drain, METH_NOARGS,
     "drain($self, /)\n--\n\nHandles waiting events: decided flows are rewritten, their futures "
     "resolved, lines logged."},
    {"expire", engine_py_expire, METH_NOARGS,
     "expire($self, /)\n--\n\nAnswers those who have waited too long for a permit or the first "
     "rules."},
    {"connect", engine_py_connect, METH_O,
     "connect($self, flow, /)\n--\n\nTakes the Proxy-Authorization off a CONNECT and remembers it; "
     "was there one?"},
    {"begin", engine_py_begin, METH_O,
     "begin($self, flow, /)\n--\n\nToken, blacklist, permit, backend.  The flow is decided on "
     "return, or when the future "
     "that is returned is done."},
    {"retry", engine_py_retry, METH_O,
     "retry($self, flow, /)\n--\n\nAsks for another upstream proxy after a dial that failed; where "
     "there is none the flow "
     "is left as it is."},
    {"judge", engine_py_judge, METH_O,
     "judge($self, flow, /)\n--\n\nIs the URL that is about to leave the one that was judged, or "
     "allowed when judged now?"
     "  False has set flow.response."},
    {"record", engine_py_record, METH_O,
     "record($self, flow, /)\n--\n\nWrites the one activity record of the flow; False when the "
     "spool cannot take it."},
    {"leave", engine_py_leave, METH_O,
     "leave($self, flow, /)\n--\n\nThe client has gone: a flow that waits for its turn gives up "
     "its "
     "place."},
    {"finish", engine_py_finish, METH_O,
     "finish($self, flow, /)\n--\n\nThe flow has ended: gives the permit back.  (method, url, "
     "status, proxy_id, "
     "milliseconds, request id) for the log, once."},
    {"refuse", engine_py_refuse, METH_NOARGS,
     "refuse($self, /)\n--\n\nFrom now on every new request is answered 503."},
    {"give_up", engine_py_give_up, METH_NOARGS,
     "give_up($self, /)\n--\n\nAnswers everybody who waits, for whatever, and every new request: "
     "503."},
    {"record_unfinished", engine_py_record_unfinished, METH_NOARGS,
     "record_unfinished($self, /)\n--\n\nAt the end of the process: what still runs is recorded as "
     "499."},
    {"stop", engine_py_stop, METH_VARARGS,
     "stop($self, timeout, /)\n--\n\nRefuses, sends what it can within timeout seconds, joins all "
     "threads.  Blocks, "
     "without the GIL."},
    {"refresh", engine_py_refresh, METH_NOARGS, "refresh($self, /)\n--\n\nFetches the rules now."},
    {"set_secrets", engine_py_set_secrets, METH_VARARGS,
     "set_secrets($self, system_token, default_user_jwt, /)\n--\n\nReplaces the tokens for all "
     "calls that start later."},
    {"set_listeners", engine_py_set_listeners, METH_VARARGS,
     "set_listeners($self, authorities, /)\n--\n\nWhere this gateway listens, as host:port, "
     "separated by spaces: never a target."},
    {"test", engine_py_test, METH_VARARGS,
     "test($self, scheme, host, port, path, /)\n--\n\nWhat the rules in force say of a URL; as "
     "Rules.match."},
    {"stats", engine_py_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nAll counters and gauges by name."},
    {"rule_counts", engine_py_rule_counts, METH_NOARGS,
     "rule_counts($self, /)\n--\n\n(id, hits, limits) of the rules that have decided a search, the "
     "first 1,000 of them."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc,
     "Engine(config, *, loop, server, route, answer, log, tunnels)\n--\n\nThe C core of one "
     "gateway process."},
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};

PyType_Spec py_engine_spec = {
    .name = "mitm_forwarder._core.Engine",
    .basicsize = sizeof(struct py_engine),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};
