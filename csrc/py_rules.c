#include "py_state.h"

#include <time.h>

#include "verdict.h"
#include "wire.h"

/* A rule list outside of any engine, for the command line: the same parser, the same sets. */
struct py_rules {
    PyObject_HEAD
    struct rules *rules;
    struct verdict_desk desk;
    struct rules_report report;
};

#define SELF(object) ((struct py_rules *)(object))

/* ---- URLs ---- */

/* The arguments of a method that takes a target; borrowed from the tuple. */
static int
parse_target(PyObject *args, const char *format, struct url_parts *target)
{
    Py_ssize_t scheme_len, host_len, path_len;
    if (!PyArg_ParseTuple(args, format, &target->scheme.data, &scheme_len, &target->host.data,
                          &host_len, &target->port, &target->path.data, &path_len)) {
        return -1;
    }
    target->scheme.len = (size_t)scheme_len;
    target->host.len = (size_t)host_len;
    target->path.len = (size_t)path_len;
    return 0;
}

static int
build_url(const struct url_parts *target, struct url *url)
{
    switch (url_build(target, url)) {
    case ERR_OK:
        return 0;
    case ERR_MEMORY:
        PyErr_NoMemory();
        return -1;
    default:
        PyErr_SetString(PyExc_ValueError,
                        "this URL cannot be read without doubt; a request for it is answered 400");
        return -1;
    }
}

PyObject *
py_forms(PyObject *Py_UNUSED(module), PyObject *args)
{
    struct url_parts target;
    struct url url;
    if (parse_target(args, "s#s#is#:forms", &target) < 0 || build_url(&target, &url) < 0) {
        return NULL;
    }
    PyObject *forms = Py_BuildValue("(ss)", buf_string(&url.raw), buf_string(&url.canonical));
    url_fini(&url);
    return forms;
}

static long long
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void *
leave_gil(void)
{
    return PyEval_SaveThread();
}

static void
enter_gil(void *thread)
{
    PyEval_RestoreThread(thread);
}

const struct verdict_gate py_gate = {.leave = leave_gil, .enter = enter_gil};

PyObject *
py_verdict(struct rules *rules, struct verdict_desk *desk, PyObject *args, const char *format)
{
    struct url_parts target;
    struct url url;
    if (parse_target(args, format, &target) < 0) {
        return NULL;
    }
    long long started_ns = now_ns();
    if (build_url(&target, &url) < 0) {
        return NULL;
    }
    struct verdict verdict = verdict_of(desk, rules, &url);
    long long elapsed_ns = now_ns() - started_ns;
    url_fini(&url);
    const struct rules_hit *hit = &verdict.hit;
    const char *form = verdict.of_raw ? "raw" : "canonical";
    PyObject *id = hit->id != NULL ? py_from_id(hit->id) : Py_NewRef(Py_None);
    return id == NULL ? NULL
                      : Py_BuildValue("(zNzNL)", hit->outcome == RULES_NO_MATCH ? NULL : form, id,
                                      hit->pattern, PyBool_FromLong(hit->outcome == RULES_LIMIT),
                                      elapsed_ns);
}

static PyObject *
rules_py_match(PyObject *object, PyObject *args)
{
    return py_verdict(SELF(object)->rules, &SELF(object)->desk, args, "s#s#is#:match");
}

/* ---- the list ---- */

static PyObject *
rules_py_report(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const struct rules_report *report = &SELF(object)->report;
    PyObject *rejects = PyList_New(0);
    for (size_t i = 0; rejects != NULL && i < report->rejects_kept; i++) {
        const struct rules_reject *reject = &report->rejects[i];
        PyObject *id = py_from_id(&reject->id);
        PyObject *row = id == NULL ? NULL
                                   : Py_BuildValue("(NnN)", id, (Py_ssize_t)reject->error.position,
                                                   py_text(reject->error.message));
        if (row == NULL || PyList_Append(rejects, row) < 0) {
            Py_CLEAR(rejects);
        }
        Py_XDECREF(row);
    }
    return rejects == NULL
               ? NULL
               : Py_BuildValue("{snsnsnsnsnsnsnsN}", "given", (Py_ssize_t)report->given, "compiled",
                               (Py_ssize_t)report->compiled, "rejected",
                               (Py_ssize_t)report->rejected, "duplicates",
                               (Py_ssize_t)report->duplicates, "always", (Py_ssize_t)report->always,
                               "everything", (Py_ssize_t)report->everything, "quarantined",
                               (Py_ssize_t)report->quarantined, "rejects", rejects);
}

static PyObject *
rules_py_get(PyObject *object, PyObject *args)
{
    struct py_rules *self = SELF(object);
    struct rules_info info;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "n:get", &at)) {
        return NULL;
    }
    if (at < 0 || (size_t)at >= rules_count(self->rules)) {
        return PyErr_Format(PyExc_IndexError, "there is no such rule");
    }
    rules_get(self->rules, (size_t)at, &info);
    PyObject *id = py_from_id(info.id);
    return id == NULL
               ? NULL
               : Py_BuildValue("{sNszsnsNsNsNsKsK}", "id", id, "pattern", info.pattern, "first",
                               (Py_ssize_t)info.first, "always", PyBool_FromLong(info.always),
                               "everything", PyBool_FromLong(info.everything), "quarantined",
                               PyBool_FromLong(info.quarantined), "hits",
                               (unsigned long long)info.hits, "limits",
                               (unsigned long long)info.limits);
}

static Py_ssize_t
rules_py_len(PyObject *object)
{
    return (Py_ssize_t)rules_count(SELF(object)->rules);
}

/* ---- making one ---- */

/* Without the GIL: 100,000 rules take most of a second. */
static int
compile_list(struct py_rules *self, struct slice body)
{
    char message[WIRE_MESSAGE_SIZE] = "";
    struct wire_rules list;
    PyThreadState *thread = PyEval_SaveThread();
    enum err err = wire_parse_rules(body, &list, message);
    bool parsed = err == ERR_OK;
    if (parsed) {
        err = rules_build(&list, NULL, &self->rules, &self->report);
        wire_rules_fini(&list);
    }
    if (!err) {
        err = verdict_desk_init(&self->desk, &py_gate);
    }
    PyEval_RestoreThread(thread);
    if (err == ERR_MEMORY) {
        PyErr_NoMemory();
    }
    else if (err) {
        PyErr_SetString(PyExc_ValueError, parsed || message[0] == '\0' ? err_text(err) : message);
    }
    return err ? -1 : 0;
}

static PyObject *
rules_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    const char *data;
    Py_ssize_t len;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y#:Rules", keywords, &data, &len)) {
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = allocate(type, 0);
    if (self != NULL && compile_list(SELF(self), (struct slice){data, (size_t)len}) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static int
rules_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void
rules_dealloc(PyObject *object)
{
    struct py_rules *self = SELF(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    rules_report_fini(&self->report);
    verdict_desk_fini(&self->desk);
    rules_unref(self->rules);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_object(object);
    Py_DECREF(type);
}

static PyMethodDef rules_methods[] = {
    {"match", rules_py_match, METH_VARARGS,
     "match($self, scheme, host, port, path, /)\n--\n\n(form, id, pattern, limit hit, "
     "nanoseconds); "
     "form is \"canonical\" or \"raw\", or None where no rule matches."},
    {"report", rules_py_report, METH_NOARGS,
     "report($self, /)\n--\n\nWhat became of the list: numbers by name, and the first 100 rules "
     "that were refused, as (id, position, reason)."},
    {"get", rules_py_get, METH_VARARGS,
     "get($self, index, /)\n--\n\nThe rule at that place among those that were compiled."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot rules_slots[] = {
    {Py_tp_doc, "Rules(body, /)\n--\n\nA rule list as the backend sends it, compiled."},
    {Py_tp_new, rules_new},
    {Py_tp_dealloc, rules_dealloc},
    {Py_tp_traverse, rules_traverse},
    {Py_tp_methods, rules_methods},
    {Py_sq_length, rules_py_len},
    {0, NULL},
};

PyType_Spec py_rules_spec = {
    .name = "mitm_forwarder._core.Rules",
    .basicsize = sizeof(struct py_rules),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = rules_slots,
};
