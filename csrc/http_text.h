/* What may stand in a request to the backend, and what may be taken from a header of its answer:
 * text in, verdict out.
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_HTTP_TEXT_H
#define FORWARDER_HTTP_TEXT_H

#include "buf.h"

/* A non-empty field value (RFC 9110, 5.5): no control byte that could end the line and begin
 * another. */
bool http_text_is_value(const char *text);
/* http:// or https://, and nothing but visible ASCII. */
bool http_text_is_url(const char *text);
/* An entity tag (RFC 9110, 8.8.3), weak or strong. */
bool http_text_is_etag(const char *text);
/* How long a Cache-Control field lets an answer be used again (RFC 9111, 5.2.2), in seconds: 0 where
 * it forbids that or cannot be read, -1 where it says nothing of it. */
int64_t http_text_fresh_s(const char *cache_control);
/* A number of seconds (RFC 9111, 1.2.2); -1 when it is none.  Very large ones are cut. */
int64_t http_text_seconds(const char *text, size_t len);
/* Replaces what is not printable, so that a text from elsewhere stays one line of the log. */
void http_text_clean(char *text);
/* Appends text percent-encoded as a query value (RFC 3986 unreserved stay); all of it or nothing. */
enum err http_text_append_query_value(struct buf *out, struct slice text) MUST_CHECK;

#endif
