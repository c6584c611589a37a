#include "targets.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "buf.h"
#include "mem.h"
#include "url.h"

#define HOST_ROOM (URL_HOST_MAX + 1)

/* Never, for nobody: what a machine in somebody's cloud must not be asked for. */
static const char *const metadata_networks[] = {
    "0.0.0.0/8",
    "169.254.0.0/16",     /* link-local, with the metadata service of most clouds */
    "168.63.129.16/32",   /* Azure */
    "100.100.100.200/32", /* Alibaba */
    "192.0.0.192/32",     /* Oracle */
    "::/128",
    "fe80::/10",
    "fd00:ec2::254/128", /* AWS */
};
static const char *const metadata_names[] = {"metadata.google.internal", "metadata.goog",
                                             "instance-data.ec2.internal"};

/* RFC 6890 and its like: nothing that the public Internet routes. */
static const char *const private_networks[] = {
    "10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",   "::1/128",
    "fc00::/7",       "fec0::/10",     "ff00::/8",
};
static const char *const private_names[] = {"localhost", "local", "internal", "home.arpa"};

/* ---- places ---- */

/* Is host `name`, or a name below it? */
static bool
is_below(const char *host, const char *name)
{
    size_t len = strlen(host), wanted = strlen(name);
    return len >= wanted && strcmp(host + len - wanted, name) == 0
           && (len == wanted || host[len - wanted - 1] == '.');
}

/* Does the host mean the machine that this gateway runs on? */
static bool
is_local(const struct targets *targets, const char *host)
{
    static const char *const loopback[] = {"127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128"};
    struct address address;
    char name[HOST_ROOM];
    if (!address_parse(host, &address)) {
        return is_below(host, "localhost")
               || (gethostname(name, sizeof name) == 0 && strcasecmp(host, name) == 0);
    }
    for (size_t i = 0; i < targets->own_count; i++) {
        if (network_contains(&targets->own[i], &address)) {
            return true;
        }
    }
    return networks_contain(loopback, COUNT_OF(loopback), &address);
}

static enum err
read_place(const struct targets *targets, struct slice host, int port, struct place *out)
{
    struct buf canonical;
    bool is_ip;
    buf_init(&canonical, URL_HOST_MAX);
    enum err err = url_canonical_host(host, &canonical, &is_ip);
    if (!err) {
        out->is_local = is_local(targets, buf_string(&canonical));
        out->port = port;
        out->host = buf_take(&canonical, NULL);
        err = out->host == NULL ? ERR_MEMORY : ERR_OK;
    }
    buf_fini(&canonical);
    return err;
}

static enum err
add_place(const struct targets *targets, struct slice host, int port, struct place **places,
          size_t *count)
{
    struct place place;
    struct place *grown = mem_realloc(*places, (*count + 1) * sizeof **places);
    if (grown == NULL) {
        return ERR_MEMORY;
    }
    *places = grown;
    enum err err = read_place(targets, host, port, &place);
    if (!err) {
        grown[(*count)++] = place;
    }
    return err;
}

static void
free_places(struct place **places, size_t *count)
{
    for (size_t i = 0; i < *count; i++) {
        mem_free((*places)[i].host);
    }
    mem_free(*places);
    *places = NULL;
    *count = 0;
}

static bool
is_at(const struct place *places, size_t count, const char *host, bool local, int port)
{
    for (size_t i = 0; i < count; i++) {
        if (places[i].port == port
            && ((local && places[i].is_local) || strcmp(places[i].host, host) == 0)) {
            return true;
        }
    }
    return false;
}

/* ---- the configuration ---- */

/* A bare IPv6 address is a host without a port, too.  `text` is terminated. */
static enum err
split_place(const char *text, struct slice *host, int *port)
{
    struct address address;
    if (strchr(text, ':') != NULL && address_parse(text, &address)) {
        *host = (struct slice){text, strlen(text)};
        *port = -1;
        return ERR_OK;
    }
    return url_split_authority((struct slice){text, strlen(text)}, host, port);
}

static enum err
read_allowance(const struct targets *targets, struct slice entry, struct allowance *out)
{
    char text[HOST_ROOM + sizeof "*.:65535"];
    struct slice host;
    int port;
    struct allowance allowance = {.place = {.host = NULL}};
    if (entry.len >= sizeof text) {
        return ERR_INVALID;
    }
    memcpy(text, entry.data, entry.len);
    text[entry.len] = '\0';
    if (strchr(text, '/') != NULL) {
        if (!network_parse(text, &allowance.network)) {
            return ERR_INVALID;
        }
        *out = allowance;
        return ERR_OK;
    }
    allowance.below = strncmp(text, "*.", 2) == 0;
    enum err err = split_place(text + (allowance.below ? 2 : 0), &host, &port);
    if (!err) {
        err = read_place(targets, host, port < 0 ? 0 : port, &allowance.place);
    }
    if (!err) {
        *out = allowance;
    }
    return err;
}

static struct slice
trimmed(struct slice text)
{
    while (text.len > 0 && text.data[0] == ' ') {
        text = (struct slice){text.data + 1, text.len - 1};
    }
    while (text.len > 0 && text.data[text.len - 1] == ' ') {
        text.len--;
    }
    return text;
}

static enum err
read_allowances(struct targets *targets, const char *text, char message[TARGETS_MESSAGE_SIZE])
{
    while (text != NULL && *text != '\0') {
        size_t len = strcspn(text, ",");
        struct slice entry = trimmed((struct slice){text, len});
        text += len + (text[len] == ',');
        struct allowance *grown = mem_realloc(
            targets->allowances, (targets->allowance_count + 1) * sizeof *targets->allowances);
        if (grown == NULL) {
            return ERR_MEMORY;
        }
        targets->allowances = grown;
        enum err err = read_allowance(targets, entry, &grown[targets->allowance_count]);
        if (err) {
            snprintf(message, TARGETS_MESSAGE_SIZE,
                     "ALLOW_TARGETS: entry %zu is no host, *.domain or network",
                     targets->allowance_count + 1);
            return err;
        }
        targets->allowance_count++;
    }
    return ERR_OK;
}

static enum err
add_backend(struct targets *targets, const char *url)
{
    struct slice host;
    int port;
    const char *start = strstr(url, "://");
    if (start == NULL) {
        return ERR_INVALID;
    }
    struct slice authority = {start + 3, strcspn(start + 3, "/?#")};
    enum err err = url_split_authority(authority, &host, &port);
    if (err) {
        return err;
    }
    if (port < 0) {
        port = strncmp(url, "https:", 6) == 0 ? 443 : 80;
    }
    return add_place(targets, host, port, &targets->backends, &targets->backend_count);
}

enum err
targets_init(struct targets *targets, const struct targets_config *config,
             char message[TARGETS_MESSAGE_SIZE])
{
    *targets = (struct targets){.deny_private = config->deny_private,
                                .deny_ip_literals = config->deny_ip_literals};
    enum err err = network_own_addresses(&targets->own, &targets->own_count);
    for (size_t i = 0; i < COUNT_OF(config->backends) && !err; i++) {
        if (config->backends[i] != NULL) {
            err = add_backend(targets, config->backends[i]);
            if (err == ERR_INVALID) {
                snprintf(message, TARGETS_MESSAGE_SIZE, "the backend's URL has no host");
            }
        }
    }
    if (!err) {
        err = read_allowances(targets, config->allow, message);
    }
    if (err) {
        targets_fini(targets);
    }
    return err;
}

void
targets_fini(struct targets *targets)
{
    for (size_t i = 0; i < targets->allowance_count; i++) {
        mem_free(targets->allowances[i].place.host);
    }
    mem_free(targets->allowances);
    free_places(&targets->backends, &targets->backend_count);
    free_places(&targets->listeners, &targets->listener_count);
    mem_free(targets->own);
    *targets = (struct targets){.own = NULL};
}

enum err
targets_set_listeners(struct targets *targets, const char *authorities)
{
    struct place *places = NULL;
    size_t count = 0;
    enum err err = ERR_OK;
    while (*authorities != '\0' && !err) {
        struct slice host, one = {authorities, strcspn(authorities, " ")};
        int port;
        authorities += one.len + (authorities[one.len] == ' ');
        err = url_split_authority(one, &host, &port);
        if (!err) {
            err = add_place(targets, host, port, &places, &count);
        }
    }
    if (err) {
        free_places(&places, &count);
        return err;
    }
    free_places(&targets->listeners, &targets->listener_count);
    targets->listeners = places;
    targets->listener_count = count;
    return ERR_OK;
}

/* ---- the decision ---- */

/* What a decision is about; the address is NULL where the host is a name. */
struct target {
    const char *host;
    const struct address *address;
    int port;
};

static bool
matches(const struct allowance *allowance, const struct target *target)
{
    const struct place *place = &allowance->place;
    if (place->host == NULL) {
        return target->address != NULL && network_contains(&allowance->network, target->address);
    }
    bool same = allowance->below
                    ? is_below(target->host, place->host) && strcmp(target->host, place->host) != 0
                    : strcmp(target->host, place->host) == 0;
    return same && (place->port == 0 || place->port == target->port);
}

static bool
is_metadata(const struct target *target)
{
    if (target->address != NULL) {
        return networks_contain(metadata_networks, COUNT_OF(metadata_networks), target->address);
    }
    for (size_t i = 0; i < COUNT_OF(metadata_names); i++) {
        if (is_below(target->host, metadata_names[i])) {
            return true;
        }
    }
    return strcmp(target->host, "metadata") == 0 || strcmp(target->host, "instance-data") == 0;
}

static bool
is_private(const struct target *target)
{
    if (target->address != NULL) {
        return networks_contain(private_networks, COUNT_OF(private_networks), target->address);
    }
    for (size_t i = 0; i < COUNT_OF(private_names); i++) {
        if (is_below(target->host, private_names[i])) {
            return true;
        }
    }
    return strchr(target->host, '.') == NULL; /* completed by a search domain */
}

static const char *
refuse_address(const struct targets *targets, const struct target *target)
{
    if (is_metadata(target)) {
        return "link-local and metadata addresses are never a target";
    }
    if (targets->deny_private && is_private(target)) {
        return "private addresses are not a target";
    }
    return NULL;
}

static const char *
refuse(const struct targets *targets, const struct target *target)
{
    struct address inner;
    bool local = is_local(targets, target->host);
    if (is_at(targets->listeners, targets->listener_count, target->host, local, target->port)) {
        return "the target is this gateway itself";
    }
    if (is_at(targets->backends, targets->backend_count, target->host, local, target->port)) {
        return "the target is the proxy manager";
    }
    if (targets->deny_ip_literals && target->address != NULL) {
        return "the target must be a name, not an IP address";
    }
    const char *why = refuse_address(targets, target);
    if (why == NULL && target->address != NULL && address_embedded_ipv4(target->address, &inner)) {
        return refuse_address(targets, &(struct target){target->host, &inner, target->port});
    }
    return why;
}

const char *
targets_refuse(const struct targets *targets, struct slice host, int port)
{
    char text[HOST_ROOM];
    struct address address;
    if (host.len >= sizeof text) {
        return "the target's host is too long";
    }
    memcpy(text, host.data, host.len);
    text[host.len] = '\0';
    struct target target = {text, address_parse(text, &address) ? &address : NULL, port};
    for (size_t i = 0; i < targets->allowance_count; i++) {
        if (matches(&targets->allowances[i], &target)) {
            return NULL;
        }
    }
    return refuse(targets, &target);
}
