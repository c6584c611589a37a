/* IP addresses and networks, IPv4 and IPv6 in one form.
 *
 * Owns nothing but what network_own_addresses gives away.
 *
 * Any thread. */
#ifndef FORWARDER_NETWORK_H
#define FORWARDER_NETWORK_H

#include "base.h"

struct address {
    unsigned char bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
};

struct network {
    struct address address;
    int bits;
};

/* A literal without brackets; false when it is none. */
bool
address_parse(const char *text, struct address *out) MUST_CHECK;
/* "10.0.0.0/8", "fe80::/10"; false when it is none. */
bool
network_parse(const char *text, struct network *out) MUST_CHECK;
bool
network_contains(const struct network *network, const struct address *address);
/* Is the address in one of these? */
bool
networks_contain(const char *const *networks, size_t count, const struct address *address);
/* The IPv4 address that a translator (NAT64, 6to4, IPv4-compatible) makes of an IPv6 one; false
 * when there is none in it. */
bool
address_embedded_ipv4(const struct address *address, struct address *out) MUST_CHECK;
/* The addresses of this machine's interfaces, to be freed with mem_free. */
enum err
network_own_addresses(struct network **out, size_t *count) MUST_CHECK;

#endif
