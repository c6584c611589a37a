#include "py_state.h"

#include "http.h"
#include "regex.h"
#include "spool.h"
#include "wire.h"

#ifndef FORWARDER_VERSION
#define FORWARDER_VERSION "0"
#endif

static PyObject *
module_versions(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{ssssssssss}", "core", FORWARDER_VERSION, "curl", http_library_version(),
                         "pcre2", regex_library_version(), "jansson", wire_library_version(),
                         "sqlite", spool_library_version());
}

static PyMethodDef module_methods[] = {
    {"versions", module_versions, METH_NOARGS,
     "versions()\n--\n\nVersions of the core and of the libraries that are loaded now."},
    {"forms", py_forms, METH_VARARGS,
     "forms(scheme, host, port, path, /)\n--\n\nThe forms of a URL that rules are matched against: "
     "(raw, canonical).  ValueError for one that is answered 400."},
    {NULL, NULL, 0, NULL},
};

static PyObject *
make_reasons(void)
{
    PyObject *reasons = PyTuple_New(REASON_COUNT - 1);
    for (int i = 1; reasons != NULL && i < REASON_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(reason_name((enum reason)i));
        if (name == NULL || PyTuple_SetItem(reasons, i - 1, name) < 0) {
            Py_CLEAR(reasons);
        }
    }
    return reasons;
}

static PyObject *
make_counters(void)
{
    PyObject *counters = PyTuple_New(STATS_COUNT);
    for (int i = 0; counters != NULL && i < STATS_COUNT; i++) {
        PyObject *row = Py_BuildValue("(ss)", stats_name((enum stats_counter)i),
                                      stats_help((enum stats_counter)i));
        if (row == NULL || PyTuple_SetItem(counters, i, row) < 0) {
            Py_CLEAR(counters);
        }
    }
    return counters;
}

/* Takes over the value, which is NULL when it could not be made. */
static int
add_constant(PyObject *module, const char *name, PyObject *value)
{
    int rc = value != NULL ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return rc;
}

static int
make_names(struct module_state *state)
{
    static const char *const texts[NAME_COUNT] = {
#define PY_NAME_TEXT(name) #name,
        PY_NAMES(PY_NAME_TEXT)
#undef PY_NAME_TEXT
    };
    for (int i = 0; i < NAME_COUNT; i++) {
        state->names[i] = PyUnicode_InternFromString(texts[i]);
        if (state->names[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

static int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    *out = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *out != NULL ? PyModule_AddType(module, *out) : -1;
}

static int
module_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    /* Once a process and before any thread: both are harmless the second time. */
    wire_init();
    if (http_global_init()) {
        PyErr_SetString(
            PyExc_ImportError,
            "libcurl cannot be used: it must be 7.85 or later, with an asynchronous resolver");
        return -1;
    }
    if (make_names(state) < 0 || add_type(module, &py_engine_spec, &state->engine_type) < 0
        || add_type(module, &py_request_spec, &state->request_type) < 0
        || add_type(module, &py_rules_spec, &state->rules_type) < 0) {
        return -1;
    }
    return add_constant(module, "REASONS", make_reasons()) < 0
                   || add_constant(module, "COUNTERS", make_counters()) < 0
               ? -1
               : 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->engine_type);
    Py_VISIT(state->request_type);
    Py_VISIT(state->rules_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->engine_type);
    Py_CLEAR(state->request_type);
    Py_CLEAR(state->rules_type);
    for (int i = 0; i < NAME_COUNT; i++) {
        Py_CLEAR(state->names[i]);
    }
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "mitm_forwarder._core",
    .m_doc = "The C core of mitm-forwarder; see csrc/README.md.",
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
