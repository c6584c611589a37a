/* How much backtracking a pattern may cost: told from its tree, without running it.
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_RISK_H
#define FORWARDER_RISK_H

#include "pattern.h"

/* What RISK_LENGTH is the power of two of; a longer subject costs more. */
#define RISK_LENGTH_BITS 11
/* Up to here a search of 2 kB takes some 0.1 ms at most. */
#define RISK_HARMLESS_BITS 17
/* Exponential, or as good as. */
#define RISK_MAX_BITS 64

/* The binary logarithm of the steps that a search of a 2 kB subject may take in the worst case.  A guess on the safe side:
 * whether a pattern past RISK_HARMLESS_BITS is a danger has to be tried out. */
unsigned risk_bits(const struct pattern *pattern);

#endif
