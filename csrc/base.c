#include "base.h"

const char *
err_text(enum err err)
{
    /* No default: the compiler names a code that is added and forgotten here. */
    switch (err) {
    case ERR_OK:
        return "ok";
    case ERR_MEMORY:
        return "out of memory";
    case ERR_LIMIT:
        return "limit exceeded";
    case ERR_INVALID:
        return "invalid input";
    case ERR_IO:
        return "input/output error";
    case ERR_LIBRARY:
        return "library failure";
    case ERR_MISSING:
        return "not found";
    case ERR_CLOSED:
        return "shutting down";
    }
    return "unknown error";
}
