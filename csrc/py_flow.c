#include "py_state.h"

#include <string.h>

PyObject *
py_text(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *
py_get(struct module_state *state, PyObject *object, enum py_name name)
{
    return PyObject_GetAttr(object, state->names[name]);
}

int
py_set(struct module_state *state, PyObject *object, enum py_name name, PyObject *value)
{
    return PyObject_SetAttr(object, state->names[name], value);
}

PyObject *
py_call(struct module_state *state, PyObject *object, enum py_name name)
{
    PyObject *method = py_get(state, object, name);
    if (method == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return result;
}

PyObject *
py_from_id(const struct wire_id *id)
{
    switch (id->kind) {
    case WIRE_ID_INTEGER:
        return PyLong_FromLongLong(id->integer);
    case WIRE_ID_STRING:
        return PyUnicode_FromString(id->string);
    case WIRE_ID_NONE:
        break;
    }
    return Py_NewRef(Py_None);
}

/* ---- reading ---- */

/* A bytes attribute of mitmproxy's RequestData. */
static int
read_bytes(struct module_state *state, PyObject *data, enum py_name name, PyObject **owner,
           struct slice *out)
{
    char *bytes;
    Py_ssize_t len;
    *owner = py_get(state, data, name);
    if (*owner == NULL || PyBytes_AsStringAndSize(*owner, &bytes, &len) < 0) {
        return -1;
    }
    *out = (struct slice){bytes, (size_t)len};
    return 0;
}

/* A host name as ASCII.  One that IDNA cannot encode becomes empty, which url_build refuses: the
 * answer is 400. */
static int
read_host(PyObject **owner, struct slice *out)
{
    Py_ssize_t len;
    const char *text = PyUnicode_AsUTF8AndSize(*owner, &len);
    bool ascii = text != NULL;
    for (Py_ssize_t i = 0; ascii && i < len; i++) {
        ascii = (unsigned char)text[i] < 0x80;
    }
    if (ascii) {
        *out = (struct slice){text, (size_t)len};
        return 0;
    }
    PyErr_Clear();
    *out = (struct slice){"", 0};
    PyObject *encoded = PyObject_CallMethod(*owner, "encode", "s", "idna");
    if (encoded == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(*owner);
    *owner = encoded;
    *out = (struct slice){PyBytes_AsString(encoded), (size_t)PyBytes_Size(encoded)};
    return 0;
}

int
flow_read_target(struct py_engine *engine, PyObject *flow, struct flow_reading *reading)
{
    struct module_state *state = engine->state;
    struct url_parts *target = &reading->input.target;
    memset(reading, 0, sizeof *reading);
    PyObject *request = py_get(state, flow, NAME_request);
    if (request == NULL) {
        return -1;
    }
    reading->data = py_get(state, request, NAME_data);
    Py_DECREF(request);
    if (reading->data == NULL
        || read_bytes(state, reading->data, NAME_scheme, &reading->scheme, &target->scheme) < 0
        || read_bytes(state, reading->data, NAME_path, &reading->path, &target->path) < 0) {
        return -1;
    }
    reading->host = py_get(state, reading->data, NAME_host);
    if (reading->host == NULL || read_host(&reading->host, &target->host) < 0) {
        return -1;
    }
    PyObject *port = py_get(state, reading->data, NAME_port);
    if (port == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(port);
    Py_DECREF(port);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    target->port = number >= 0 && number <= 65535 ? (int)number : 0;
    return 0;
}

static bool
name_is(const char *name, Py_ssize_t len, const char *wanted)
{
    return (size_t)len == strlen(wanted) && strncasecmp(name, wanted, (size_t)len) == 0;
}

/* One header field as mitmproxy keeps it, a pair of bytes; borrowed. */
static int
field_at(PyObject *fields, Py_ssize_t i, char **name, Py_ssize_t *name_len, struct slice *value)
{
    char *bytes;
    Py_ssize_t len;
    PyObject *field = PyTuple_GetItem(fields, i);
    PyObject *key = field ? PyTuple_GetItem(field, 0) : NULL;
    PyObject *val = key ? PyTuple_GetItem(field, 1) : NULL;
    if (val == NULL || PyBytes_AsStringAndSize(key, name, name_len) < 0
        || PyBytes_AsStringAndSize(val, &bytes, &len) < 0) {
        return -1;
    }
    *value = (struct slice){bytes, (size_t)len};
    return 0;
}

/* The headers that decide.  A second one of a name is no better than a malformed one: which would
 * count? */
static int
read_headers(struct flow_reading *reading)
{
    static const struct slice two_hosts = {",", 1}, two_tokens = {"Bearer ,", 8};
    struct request_input *input = &reading->input;
    Py_ssize_t count = PyTuple_Size(reading->fields);
    if (count < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        char *name;
        Py_ssize_t len;
        struct slice value;
        if (field_at(reading->fields, i, &name, &len, &value) < 0) {
            return -1;
        }
        if (name_is(name, len, "host")) {
            input->host_header = input->host_header.len > 0 ? two_hosts : value;
        }
        else if (name_is(name, len, "authorization")) {
            input->authorization = input->authorization.len > 0 ? two_tokens : value;
        }
        else if (name_is(name, len, "proxy-authorization")) {
            input->proxy_authorization = input->proxy_authorization.len > 0 ? two_tokens : value;
        }
    }
    return 0;
}

/* In mode reverse the client's TLS names the gateway, not the target. */
static int
names_target(struct module_state *state, PyObject *client)
{
    PyObject *mode = py_get(state, client, NAME_proxy_mode);
    PyObject *type = mode ? py_get(state, mode, NAME_type_name) : NULL;
    Py_XDECREF(mode);
    if (type == NULL) {
        return -1;
    }
    const char *text = PyUnicode_AsUTF8AndSize(type, NULL);
    int rc = text == NULL ? -1 : strcmp(text, "reverse") != 0;
    Py_DECREF(type);
    return rc;
}

static int
read_client(struct py_engine *engine, PyObject *flow, struct flow_reading *reading)
{
    struct module_state *state = engine->state;
    struct request_input *input = &reading->input;
    PyObject *client = py_get(state, flow, NAME_client_conn);
    if (client == NULL) {
        return -1;
    }
    int tls = input->target.scheme.len == 5 ? names_target(state, client) : 0;
    if (tls < 0) {
        Py_DECREF(client);
        return -1;
    }
    reading->tunnel = PyObject_CallMethod(engine->tunnels, "get", "O", client);
    reading->sni = tls ? py_get(state, client, NAME_sni) : Py_NewRef(Py_None);
    Py_DECREF(client);
    if (reading->tunnel == NULL || reading->sni == NULL) {
        return -1;
    }
    if (reading->tunnel != Py_None) {
        input->tunnel_authorization = (struct slice){PyBytes_AsString(reading->tunnel),
                                                     (size_t)PyBytes_Size(reading->tunnel)};
    }
    return reading->sni == Py_None ? 0 : read_host(&reading->sni, &input->sni);
}

static int
get_fields(struct module_state *state, struct flow_reading *reading)
{
    reading->headers = py_get(state, reading->data, NAME_headers);
    reading->fields = reading->headers ? py_get(state, reading->headers, NAME_fields) : NULL;
    return reading->fields != NULL ? 0 : -1;
}

int
flow_read(struct py_engine *engine, PyObject *flow, struct flow_reading *reading)
{
    struct module_state *state = engine->state;
    if (flow_read_target(engine, flow, reading) < 0
        || read_bytes(state, reading->data, NAME_method, &reading->method, &reading->input.method)
               < 0
        || read_bytes(state, reading->data, NAME_authority, &reading->authority,
                      &reading->input.authority)
               < 0
        || get_fields(state, reading) < 0 || read_headers(reading) < 0) {
        return -1;
    }
    return read_client(engine, flow, reading);
}

void
flow_reading_fini(struct flow_reading *reading)
{
    PyObject **owners[] = {&reading->data, &reading->method, &reading->scheme,  &reading->authority,
                           &reading->host, &reading->path,   &reading->headers, &reading->fields,
                           &reading->sni,  &reading->tunnel};
    for (size_t i = 0; i < COUNT_OF(owners); i++) {
        Py_CLEAR(*owners[i]);
    }
}

int
flow_status(struct py_engine *engine, PyObject *flow, int *status)
{
    PyObject *response = py_get(engine->state, flow, NAME_response);
    if (response == NULL) {
        return -1;
    }
    if (response == Py_None) {
        Py_DECREF(response);
        *status = 499; /* the client went away before there was a status, in nginx's words */
        return 0;
    }
    PyObject *code = py_get(engine->state, response, NAME_status_code);
    Py_DECREF(response);
    long number = code ? PyLong_AsLong(code) : -1;
    Py_XDECREF(code);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    *status = (int)number;
    return 0;
}

/* ---- rewriting ---- */

/* Is this header field the gateway's own, or does it hold the user token? */
static bool
must_go(const char *name, Py_ssize_t len, struct slice value, bool authorization,
        struct slice token)
{
    if (name_is(name, len, "authorization")) {
        return authorization
               || (token.len > 0 && memmem(value.data, value.len, token.data, token.len) != NULL);
    }
    return name_is(name, len, "proxy-authorization") || name_is(name, len, "proxy-connection");
}

int
flow_strip(struct py_engine *engine, const struct flow_reading *reading, bool authorization,
           struct slice token)
{
    Py_ssize_t count = PyTuple_Size(reading->fields);
    PyObject *kept = PyList_New(0);
    for (Py_ssize_t i = 0; kept != NULL && i < count; i++) {
        char *name;
        Py_ssize_t len;
        struct slice value;
        if (field_at(reading->fields, i, &name, &len, &value) < 0
            || (!must_go(name, len, value, authorization, token)
                && PyList_Append(kept, PyTuple_GetItem(reading->fields, i)) < 0)) {
            Py_CLEAR(kept);
        }
    }
    if (kept == NULL) {
        return -1;
    }
    int rc = 0;
    if (PyList_Size(kept) < count) {
        PyObject *fields = PyList_AsTuple(kept);
        rc = fields != NULL ? py_set(engine->state, reading->headers, NAME_fields, fields) : -1;
        Py_XDECREF(fields);
    }
    Py_DECREF(kept);
    return rc;
}

int
flow_take_tunnel_token(struct py_engine *engine, PyObject *flow)
{
    struct flow_reading reading;
    int found = -1;
    PyObject *client = NULL, *value = NULL;
    if (flow_read_target(engine, flow, &reading) < 0 || get_fields(engine->state, &reading) < 0
        || read_headers(&reading) < 0
        || flow_strip(engine, &reading, false, (struct slice){NULL, 0}) < 0) {
        goto out;
    }
    struct slice header = reading.input.proxy_authorization;
    if (header.len == 0) {
        found = 0;
        goto out;
    }
    client = py_get(engine->state, flow, NAME_client_conn);
    value = PyBytes_FromStringAndSize(header.data, (Py_ssize_t)header.len);
    if (client != NULL && value != NULL && PyObject_SetItem(engine->tunnels, client, value) == 0) {
        found = 1;
    }
out:
    Py_XDECREF(client);
    Py_XDECREF(value);
    flow_reading_fini(&reading);
    return found;
}

static PyObject *
optional_string(const char *text)
{
    return text != NULL && text[0] != '\0' ? py_text(text) : Py_NewRef(Py_None);
}

/* Equal for equal tokens; what it is made of cannot be told from it. */
static PyObject *
mark_of_user(const struct request *request)
{
    struct slice token = request_token(request);
    PyObject *bytes = PyBytes_FromStringAndSize(token.data, (Py_ssize_t)token.len);
    Py_hash_t hash = bytes != NULL ? PyObject_Hash(bytes) : -1;
    Py_XDECREF(bytes);
    return hash != -1 ? PyLong_FromSsize_t(hash) : NULL;
}

/* Always a fresh Server: HTTP/2 streams of one client share the object that was there. */
static int
set_server(struct py_request *self, PyObject *flow, const struct upstream *upstream)
{
    struct py_engine *engine = self->engine;
    int rc = -1;
    PyObject *address = NULL, *server = NULL, *empty = NULL, *arguments = NULL;
    PyObject *id = py_from_id(&upstream->id);
    PyObject *user = id != NULL ? mark_of_user(self->request) : NULL;
    PyObject *via =
        user ? PyObject_CallFunction(engine->route, "ssizzOzO", upstream_kind_name(upstream->kind),
                                     upstream->host, upstream->port, upstream->username,
                                     upstream->password, id, upstream->tls_name, user)
             : NULL;
    struct flow_reading reading;
    if (flow_read_target(engine, flow, &reading) == 0) {
        PyObject *host = py_get(engine->state, reading.data, NAME_host);
        address = host ? Py_BuildValue("(Ni)", host, reading.input.target.port) : NULL;
    }
    flow_reading_fini(&reading);
    if (via != NULL && address != NULL) {
        arguments = Py_BuildValue("{OOOO}", engine->state->names[NAME_address], address,
                                  engine->state->names[NAME_via], via);
        empty = PyTuple_New(0);
    }
    if (arguments != NULL && empty != NULL) {
        server = PyObject_Call(engine->server, empty, arguments);
    }
    if (server != NULL) {
        rc = py_set(engine->state, flow, NAME_server_conn, server);
    }
    Py_XDECREF(id);
    Py_XDECREF(user);
    Py_XDECREF(via);
    Py_XDECREF(address);
    Py_XDECREF(arguments);
    Py_XDECREF(empty);
    Py_XDECREF(server);
    return rc;
}

int
flow_answer(struct py_request *self, PyObject *flow)
{
    struct py_engine *engine = self->engine;
    const struct request *request = self->request;
    PyObject *detail = optional_string(request_detail(request));
    PyObject *response = NULL;
    if (detail != NULL) {
        response =
            PyObject_CallFunction(engine->answer, "ssNO", reason_name(request_reason(request)),
                                  request_id(request), py_text(request_method(request)), detail);
    }
    int rc = response != NULL ? py_set(engine->state, flow, NAME_response, response) : -1;
    Py_XDECREF(detail);
    Py_XDECREF(response);
    return rc;
}

/* What people look at in mitmproxy's own UI, and what a saved flow tells later; plain types only,
 * or it cannot be saved. */
static int
annotate(struct py_request *self, PyObject *flow)
{
    struct module_state *state = self->engine->state;
    const struct upstream *upstream = request_upstream(self->request);
    const char *reason = reason_name(request_reason(self->request));
    const char *decision = upstream != NULL ? "routed" : reason != NULL ? reason : "refused";
    int rc = -1;
    PyObject *notes = NULL, *comment = NULL, *metadata = NULL;
    PyObject *proxy_id = upstream != NULL ? py_from_id(&upstream->id) : Py_NewRef(Py_None);
    if (proxy_id != NULL) {
        notes = Py_BuildValue("{sssOss}", "decision", decision, "proxy_id", proxy_id, "request_id",
                              request_id(self->request));
        comment = upstream != NULL
                      ? PyUnicode_FromFormat("%s proxy=%S id=%s", decision, proxy_id,
                                             request_id(self->request))
                      : PyUnicode_FromFormat("%s id=%s", decision, request_id(self->request));
        metadata = py_get(state, flow, NAME_metadata);
    }
    if (notes != NULL && comment != NULL && metadata != NULL
        && PyObject_SetItem(metadata, state->names[NAME_mitm_forwarder], notes) == 0) {
        rc = py_set(state, flow, NAME_comment, comment);
    }
    Py_XDECREF(proxy_id);
    Py_XDECREF(notes);
    Py_XDECREF(comment);
    Py_XDECREF(metadata);
    return rc;
}

int
flow_apply(struct py_request *self, PyObject *flow)
{
    const struct upstream *upstream = request_upstream(self->request);
    int rc = 0;
    if (upstream != NULL) {
        rc = set_server(self, flow, upstream);
    }
    else if (!self->retrying) {
        rc = flow_answer(self, flow);
    }
    self->retrying = false;
    return rc < 0 ? rc : annotate(self, flow);
}
