/* The same tests of the mailbox that systems without an eventfd get. */
#define MAILBOX_PIPE
#include "../../csrc/mailbox.c"
#include "test_mailbox.c"
