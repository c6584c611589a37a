#include "py_state.h"

static void
request_dealloc(PyObject *object)
{
    struct py_request *self = (struct py_request *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->request != NULL) {
        engine_release(self->engine->engine, self->request);
    }
    Py_XDECREF(self->flow);
    Py_XDECREF(self->future);
    Py_XDECREF((PyObject *)self->engine);
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_object(object);
    Py_DECREF(type);
}

static int
request_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct py_request *self = (struct py_request *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->engine);
    Py_VISIT(self->flow);
    Py_VISIT(self->future);
    return 0;
}

/* The engine stays until the end: the request is released into it. */
static int
request_clear(PyObject *object)
{
    struct py_request *self = (struct py_request *)object;
    Py_CLEAR(self->flow);
    Py_CLEAR(self->future);
    return 0;
}

static PyObject *
request_get_id(PyObject *object, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(request_id(((struct py_request *)object)->request));
}

static PyObject *
request_get_deadline(PyObject *object, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble((double)request_deadline_ms(((struct py_request *)object)->request)
                              / 1000.0);
}

static PyObject *
request_get_routed(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(request_upstream(((struct py_request *)object)->request) != NULL);
}

static PyObject *
request_get_reason(PyObject *object, void *Py_UNUSED(closure))
{
    const char *reason = reason_name(request_reason(((struct py_request *)object)->request));
    return reason != NULL ? PyUnicode_FromString(reason) : Py_NewRef(Py_None);
}

PyObject *
py_proxy_id(struct py_request *self)
{
    const struct upstream *upstream = request_upstream(self->request);
    return upstream != NULL ? py_from_id(&upstream->id) : Py_NewRef(Py_None);
}

static PyObject *
request_get_proxy_id(PyObject *object, void *Py_UNUSED(closure))
{
    return py_proxy_id((struct py_request *)object);
}

static PyGetSetDef request_attributes[] = {
    {"id", request_get_id, NULL,
     "The request id: X-Request-ID, log line, Idempotency-Key of the record.", NULL},
    {"deadline", request_get_deadline, NULL,
     "time.monotonic() by which queue, backend, dials and retries together must be done.", NULL},
    {"routed", request_get_routed, NULL, "An upstream proxy was chosen.", NULL},
    {"reason", request_get_reason, NULL, "Why the gateway answers itself; None when routed.", NULL},
    {"proxy_id", request_get_proxy_id, NULL,
     "The backend's id of the chosen proxy; None when there is none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot request_slots[] = {
    {Py_tp_doc, "One request's ticket, kept on its flow; made by Engine.begin only."},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_getset, request_attributes},
    {0, NULL},
};

PyType_Spec py_request_spec = {
    .name = "mitm_forwarder._core.Request",
    .basicsize = sizeof(struct py_request),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = request_slots,
};
