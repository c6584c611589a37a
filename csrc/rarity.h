/* How rare a piece of text is in URLs: an order-1 model of their bytes, in eighths of a bit.
 *
 * Owns nothing; the tables are constants, made by bench/rules/rarity.py.
 *
 * Any thread. */
#ifndef FORWARDER_RARITY_H
#define FORWARDER_RARITY_H

#include "base.h"

#define RARITY_CLASSES 37
/* One bit of surprise. */
#define RARITY_BIT 8

extern const uint8_t rarity_class[256];
extern const uint8_t rarity_cost[RARITY_CLASSES][RARITY_CLASSES];

/* Of a byte after the one before it, either case.  What a text costs is the sum over its pairs. */
static inline unsigned
rarity_of(char before, char byte)
{
    return rarity_cost[rarity_class[(unsigned char)before]][rarity_class[(unsigned char)byte]];
}

#endif
