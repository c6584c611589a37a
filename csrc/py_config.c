#include "py_state.h"

/* What a Config is read into; the references keep the strings of `config` alive. */
struct config_reading {
    struct engine_config config;
    PyObject *owners[20];
    size_t count;
};

static PyObject *
config_get(struct config_reading *reading, PyObject *config, const char *name)
{
    PyObject *value = PyObject_GetAttrString(config, name);
    if (value != NULL) {
        assert(reading->count < COUNT_OF(reading->owners));
        reading->owners[reading->count++] = value;
    }
    return value;
}

/* str, or None where that is allowed (then *out is NULL). */
static int
config_string(struct config_reading *reading, PyObject *config, const char *name, const char **out)
{
    PyObject *value = config_get(reading, config, name);
    if (value == NULL) {
        return -1;
    }
    *out = value == Py_None ? NULL : PyUnicode_AsUTF8AndSize(value, NULL);
    return value != Py_None && *out == NULL ? -1 : 0;
}

static int
config_integer(PyObject *config, const char *name, int64_t *out)
{
    PyObject *value = PyObject_GetAttrString(config, name);
    if (value == NULL) {
        return -1;
    }
    *out = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return *out == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Seconds as a float into milliseconds. */
static int
config_milliseconds(PyObject *config, const char *name, int64_t *out)
{
    PyObject *value = PyObject_GetAttrString(config, name);
    if (value == NULL) {
        return -1;
    }
    double seconds = PyFloat_AsDouble(value);
    Py_DECREF(value);
    *out = (int64_t)(seconds * 1000.0 + 0.5);
    return seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int
read_strings(struct config_reading *reading, PyObject *object)
{
    struct engine_config *config = &reading->config;
    const struct {
        const char *name, **out;
    } strings[] = {
        {"proxy_url", &config->proxy_url},
        {"blacklist_url", &config->blacklist_url},
        {"activity_url", &config->activity_url},
        {"system_token", &config->system_token},
        {"default_user_jwt", &config->default_user_jwt},
        {"user_id_claim", &config->user_id_claim},
        {"allow_targets", &config->allow_targets},
        {"fastapi_ca_bundle", &config->tls.ca_bundle},
        {"fastapi_client_cert", &config->tls.client_cert},
        {"fastapi_client_key", &config->tls.client_key},
        {"state_dir", &config->state_dir},
        {"activity_spool_dir", &config->spool.directory},
    };
    for (size_t i = 0; i < COUNT_OF(strings); i++) {
        if (config_string(reading, object, strings[i].name, strings[i].out) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
read_numbers(struct engine_config *config, PyObject *object)
{
    int64_t timeout_ms, connect_ms, queue_ms, concurrent, retries, max_bytes, require, forward;
    int64_t drops, shrink;
    int64_t deny_private, deny_literals;
    if (config_milliseconds(object, "blacklist_refresh_seconds", &config->refresh_ms) < 0
        || config_milliseconds(object, "blacklist_max_stale_seconds", &config->max_stale_ms) < 0
        || config_milliseconds(object, "httpx_timeout", &timeout_ms) < 0
        || config_milliseconds(object, "connect_timeout", &connect_ms) < 0
        || config_milliseconds(object, "queue_timeout", &queue_ms) < 0
        || config_integer(object, "blacklist_max_bytes", &max_bytes) < 0
        || config_integer(object, "blacklist_max_shrink_percent", &shrink) < 0
        || config_integer(object, "activity_spool_max_bytes", &config->spool.max_bytes) < 0
        || config_integer(object, "activity_drops_oldest", &drops) < 0
        || config_integer(object, "max_concurrent_requests", &concurrent) < 0
        || config_integer(object, "proxy_retries", &retries) < 0
        || config_integer(object, "require_user_jwt", &require) < 0
        || config_integer(object, "forward_authorization", &forward) < 0
        || config_integer(object, "deny_private_targets", &deny_private) < 0
        || config_integer(object, "deny_ip_literals", &deny_literals) < 0) {
        return -1;
    }
    config->timeout_ms = (int)timeout_ms;
    config->connect_timeout_ms = (int)connect_ms;
    config->queue_timeout_ms = (int)queue_ms;
    config->blacklist_max_bytes = (size_t)max_bytes;
    config->max_shrink_percent = (int)shrink;
    config->max_concurrent = (size_t)concurrent;
    config->proxy_retries = (unsigned)retries;
    config->spool.drops_when_full = drops != 0;
    config->require_user_jwt = require != 0;
    config->forward_authorization = forward != 0;
    config->deny_private_targets = deny_private != 0;
    config->deny_ip_literals = deny_literals != 0;
    return 0;
}

int
py_create_engine(struct py_engine *self, PyObject *config)
{
    char message[ENGINE_MESSAGE_SIZE];
    struct config_reading reading = {.config.gate = py_gate};
    int rc = -1;
    if (read_strings(&reading, config) == 0 && read_numbers(&reading.config, config) == 0) {
        if (engine_create(&reading.config, &self->engine, message) == ERR_OK) {
            rc = 0;
        }
        else {
            PyErr_SetString(PyExc_RuntimeError, message);
        }
    }
    for (size_t i = 0; i < reading.count; i++) {
        Py_DECREF(reading.owners[i]);
    }
    return rc;
}
