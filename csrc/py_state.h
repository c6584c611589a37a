/* What the files of the binding share: module state, the two objects, the reading and rewriting of
 * flows.
 *
 * An Engine owns its struct engine; a Request owns its struct request and keeps its Engine alive.
 * While a request is undecided the engine holds one reference to the Request, which holds the flow
 * and the future.
 *
 * The loop thread, with the GIL. */
#ifndef FORWARDER_PY_STATE_H
#define FORWARDER_PY_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine.h"
#include "rules.h"

/* Attribute and key names, interned once. */
#define PY_NAMES(X)                                                                                \
    X(_forwarder)                                                                                  \
    X(address)                                                                                     \
    X(authority)                                                                                   \
    X(call_later)                                                                                  \
    X(cancel)                                                                                      \
    X(client_conn) X(comment) X(create_future) X(data) X(done) X(encode) X(expire) X(fields)       \
        X(get) X(headers) X(host) X(metadata) X(method) X(mitm_forwarder) X(path) X(port)          \
            X(proxy_mode) X(request) X(response) X(scheme) X(server_conn) X(set_exception)         \
                X(set_result) X(sni) X(status_code) X(type_name) X(via)

enum py_name {
#define PY_NAME_ENUM(name) NAME_##name,
    PY_NAMES(PY_NAME_ENUM)
#undef PY_NAME_ENUM
        NAME_COUNT
};

struct module_state {
    PyTypeObject *engine_type, *request_type, *rules_type;
    PyObject *names[NAME_COUNT];
};

struct py_engine {
    PyObject_HEAD
    struct engine *engine;
    struct module_state *state; /* borrowed: the type keeps the module alive */
    PyObject *loop;
    PyObject *server;  /* mitmproxy.connection.Server */
    PyObject *route;   /* (kind, host, port, username, password, proxy_id) -> what Server.via is */
    PyObject *answer;  /* (reason, request_id, method, detail) -> http.Response */
    PyObject *log;     /* (level, text) */
    PyObject *tunnels; /* the process's: client connection -> the Proxy-Authorization of its
                          CONNECT */
    int64_t expiry_ms; /* when `expire` has been scheduled for; CLOCK_NEVER */
    PyObject *expiry_handle; /* the loop's, for that; NULL */
};

struct py_request {
    PyObject_HEAD
    struct request *request;
    struct py_engine *engine; /* strong */
    PyObject *flow, *future;  /* while undecided */
    bool retrying; /* a dial failed: where there is no other route, the layer answers for that */
};

/* Text of ours as str; bytes that are not UTF-8 (a hostile method, a cut message) become U+FFFD.
 * New reference. */
PyObject *
py_text(const char *text);
/* `object.name`; new reference. */
PyObject *
py_get(struct module_state *state, PyObject *object, enum py_name name);
int
py_set(struct module_state *state, PyObject *object, enum py_name name, PyObject *value);
/* `object.name()`; new reference. */
PyObject *
py_call(struct module_state *state, PyObject *object, enum py_name name);

/* What begin needs of a flow.  The references keep the slices of `input` alive. */
struct flow_reading {
    struct request_input input;
    PyObject *data, *method, *scheme, *authority, *host, *path, *headers, *fields, *sni, *tunnel;
};

/* 0, or -1 with an exception.  flow_reading_fini in both cases. */
int
flow_read(struct py_engine *engine, PyObject *flow, struct flow_reading *reading);
/* Only the target, for judge. */
int
flow_read_target(struct py_engine *engine, PyObject *flow, struct flow_reading *reading);
void
flow_reading_fini(struct flow_reading *reading);
/* Takes the gateway's own headers off: Proxy-Authorization and Proxy-Connection, and each
 * Authorization if `authorization`, or else if it contains `token`. */
int
flow_strip(struct py_engine *engine, const struct flow_reading *reading, bool authorization,
           struct slice token);
/* Remembers the Proxy-Authorization of a CONNECT for its connection and takes it off; 1 when there
 * was one, else 0. */
int
flow_take_tunnel_token(struct py_engine *engine, PyObject *flow);
/* Rewrites the flow as decided: server_conn, or response; comment and metadata either way.  After a
 * retry in vain only those: the failure that began it is what the client should know, and the layer
 * knows it. */
int
flow_apply(struct py_request *self, PyObject *flow);
/* Sets flow.response to the gateway's own answer for the request's reason. */
int
flow_answer(struct py_request *self, PyObject *flow);
/* flow.response.status_code; 499 where there is no response. */
int
flow_status(struct py_engine *engine, PyObject *flow, int *status);
/* An identifier as int, str or None; new reference. */
PyObject *
py_from_id(const struct wire_id *id);

/* The chosen proxy's id, or None; new reference. */
PyObject *
py_proxy_id(struct py_request *self);
/* Reads a mitm_forwarder.options.Config and makes self->engine; 0, or -1 with an exception. */
int
py_create_engine(struct py_engine *self, PyObject *config);

/* The forms of a URL that rules are matched against, as (raw, canonical). */
PyObject *
py_forms(PyObject *module, PyObject *args);
/* What the set says of the target in args: (form, id, pattern, limit hit, nanoseconds). */
PyObject *
py_verdict(struct rules *rules, struct verdict_desk *desk, PyObject *args, const char *format);

/* Drops the GIL. */
extern const struct verdict_gate py_gate;

extern PyType_Spec py_engine_spec, py_request_spec, py_rules_spec;

#endif
