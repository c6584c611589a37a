#include "network.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

#define MAPPED_BITS 96

static void
map_ipv4(const unsigned char bytes[4], struct address *out)
{
    memset(out->bytes, 0, 10);
    memset(out->bytes + 10, 0xff, 2);
    memcpy(out->bytes + 12, bytes, 4);
}

bool
address_parse(const char *text, struct address *out)
{
    struct in_addr v4;
    if (inet_pton(AF_INET, text, &v4) == 1) {
        map_ipv4((const unsigned char *)&v4, out);
        return true;
    }
    return inet_pton(AF_INET6, text, out->bytes) == 1;
}

bool
network_parse(const char *text, struct network *out)
{
    char host[INET6_ADDRSTRLEN];
    char *end;
    size_t len = strcspn(text, "/");
    if (text[len] == '\0' || len >= sizeof host) {
        return false;
    }
    memcpy(host, text, len);
    host[len] = '\0';
    if (text[len + 1] < '0' || text[len + 1] > '9' || !address_parse(host, &out->address)) {
        return false;
    }
    long bits = strtol(text + len + 1, &end, 10);
    int first = strchr(host, ':') != NULL ? 0 : MAPPED_BITS;
    if (*end != '\0' || bits > 128 - first) {
        return false;
    }
    out->bits = first + (int)bits;
    return true;
}

bool
network_contains(const struct network *network, const struct address *address)
{
    const unsigned char *a = network->address.bytes, *b = address->bytes;
    int whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(a, b, (size_t)whole) != 0) {
        return false;
    }
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

bool
networks_contain(const char *const *networks, size_t count, const struct address *address)
{
    for (size_t i = 0; i < count; i++) {
        struct network network;
        if (network_parse(networks[i], &network) && network_contains(&network, address)) {
            return true;
        }
    }
    return false;
}

bool
address_embedded_ipv4(const struct address *address, struct address *out)
{
    static const struct {
        const char *network;
        int at;
    } kinds[] = {{"64:ff9b::/96", 12}, {"64:ff9b:1::/48", 12}, {"2002::/16", 2}, {"::/96", 12}};
    static const char *const unspecified_and_loopback[] = {"::/127"};
    if (networks_contain(unspecified_and_loopback, 1, address)) {
        return false;
    }
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (networks_contain(&kinds[i].network, 1, address)) {
            map_ipv4(address->bytes + kinds[i].at, out);
            return true;
        }
    }
    return false;
}

static bool
read_interface(const struct ifaddrs *interface, struct address *out)
{
    const struct sockaddr *socket = interface->ifa_addr;
    if (socket != NULL && socket->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, socket, sizeof v4);
        map_ipv4((const unsigned char *)&v4.sin_addr, out);
        return true;
    }
    if (socket != NULL && socket->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, socket, sizeof v6);
        memcpy(out->bytes, &v6.sin6_addr, sizeof out->bytes);
        return true;
    }
    return false;
}

enum err
network_own_addresses(struct network **out, size_t *count)
{
    struct ifaddrs *all;
    size_t most = 0, found = 0;
    if (getifaddrs(&all) != 0) {
        return ERR_IO;
    }
    for (struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        most++;
    }
    struct network *own = mem_calloc(most + 1, sizeof *own);
    for (struct ifaddrs *one = all; own != NULL && one != NULL; one = one->ifa_next) {
        if (read_interface(one, &own[found].address)) {
            own[found++].bits = 128;
        }
    }
    freeifaddrs(all);
    if (own == NULL) {
        return ERR_MEMORY;
    }
    *out = own;
    *count = found;
    return ERR_OK;
}
