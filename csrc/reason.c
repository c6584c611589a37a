#include "reason.h"

const char *
reason_name(enum reason reason)
{
    static const char *const names[REASON_COUNT] = {
        [REASON_NONE] = NULL,
#define REASON_TEXT(name, meaning) [REASON_##name] = #name,
        REASONS(REASON_TEXT)
#undef REASON_TEXT
    };
    return names[reason];
}
