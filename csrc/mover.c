#include "mover.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "io.h"
#include "mem.h"

void
mover_say(struct mover_line *line, const char *format, ...)
{
    va_list arguments;
    size_t len = strlen(line->text);
    if (len > 0 && len + 2 < sizeof line->text) {
        memcpy(line->text + len, "; ", 3);
        len += 2;
    }
    va_start(arguments, format);
    vsnprintf(line->text + len, sizeof line->text - len, format, arguments);
    va_end(arguments);
}

static enum err
failed(struct mover_line *line, enum err err, const char *what, const char *path)
{
    mover_say(line, "cannot %s %s: %s", what, path != NULL ? path : "the journal in memory",
              err == ERR_IO ? strerror(errno) : err_text(err));
    return err;
}

/* ---- one segment ---- */

/* Moves up to MOVER_BATCH records in one transaction; *count is less at the end of the segment. */
static enum err
move_batch(struct database *database, struct journal_reader *reader, size_t *count,
           struct mover_line *line)
{
    size_t done = 0;
    struct journal_record record;
    double now = clock_wall_seconds();
    enum err err = database_begin(database);
    if (err) {
        mover_say(line, "%s", database_message(database));
        return err;
    }
    enum err read_err = ERR_OK;
    while (done < MOVER_BATCH && !err && !(read_err = journal_read(reader, &record))) {
        err = database_insert(database, (struct slice){record.key, JOURNAL_KEY_LEN}, record.body,
                              now);
        done++;
    }
    if (!err && read_err && read_err != ERR_MISSING) {
        err = failed(line, read_err, "read", "the journal");
    }
    err = database_end(database, err);
    if (database_message(database)[0] != '\0') {
        mover_say(line, "%s", database_message(database));
    }
    if (!err) {
        *count = done;
    }
    return err;
}

static void
report_damage(struct journal_segment *segment, const struct journal_reader *reader,
              struct mover_line *line)
{
    const char *path = segment->path != NULL ? segment->path : "the journal in memory";
    if (reader->torn > 0 && !segment->sealed) {
        mover_say(line, "dropped an unfinished record at the end of %s", path);
    }
    if (reader->corrupt > 0) {
        segment->corrupt = true;
        mover_say(line,
                  "passed over %lld bytes in %s that are no record; the file is kept beside it as "
                  ".corrupt",
                  (long long)reader->corrupt, path);
    }
}

enum err
mover_drain(struct database *database, struct journal_segment *segment, size_t *batches,
            size_t *moved, struct mover_line *line)
{
    struct journal_reader reader;
    enum err err = ERR_OK;
    size_t count = MOVER_BATCH;
    journal_reader_init(&reader, segment);
    while (!err && count == MOVER_BATCH && *batches > 0) {
        err = move_batch(database, &reader, &count, line);
        if (!err) {
            *moved += count;
            segment->read_from = journal_reader_position(&reader);
            (*batches)--;
        }
    }
    report_damage(segment, &reader, line);
    if (!err && count < MOVER_BATCH) {
        if ((err = journal_segment_discard(segment))) {
            failed(line, err, "remove", segment->path);
        }
    }
    journal_reader_fini(&reader);
    return err;
}

/* ---- those of an earlier process ---- */

static enum err
add_sizes(struct leftovers *leftovers)
{
    enum err err = ERR_OK;
    for (size_t i = 0; i < leftovers->count && !err; i++) {
        struct journal_segment segment;
        off_t size = 0;
        if (!(err = journal_segment_open(leftovers->directory, leftovers->numbers[i], &segment))) {
            err = io_size(segment.fd, &size);
            leftovers->bytes += (int64_t)size;
            journal_segment_close(&segment);
        }
    }
    return err;
}

enum err
leftovers_open(const char *directory, struct leftovers *out, uint32_t *next)
{
    struct leftovers leftovers = {.segment.fd = -1, .directory = mem_string(directory)};
    enum err err = leftovers.directory == NULL
                       ? ERR_MEMORY
                       : journal_list(directory, &leftovers.numbers, &leftovers.count);
    if (!err) {
        err = add_sizes(&leftovers);
    }
    if (err) {
        leftovers_close(&leftovers);
        return err;
    }
    *next = leftovers.count > 0 ? leftovers.numbers[leftovers.count - 1] + 1 : 0;
    *out = leftovers;
    return ERR_OK;
}

bool
leftovers_remain(const struct leftovers *leftovers)
{
    return leftovers->at < leftovers->count;
}

enum err
leftovers_move(struct leftovers *leftovers, struct database *database, size_t *batches,
               size_t *moved, struct mover_line *line)
{
    enum err err = ERR_OK;
    while (!err && *batches > 0 && leftovers_remain(leftovers)) {
        off_t size = 0;
        if (leftovers->segment.fd < 0 &&
            (err = journal_segment_open(leftovers->directory, leftovers->numbers[leftovers->at],
                                        &leftovers->segment))) {
            return failed(line, err, "open a journal in", leftovers->directory);
        }
        if ((err = io_size(leftovers->segment.fd, &size))) {
            return failed(line, err, "measure", leftovers->segment.path);
        }
        err = mover_drain(database, &leftovers->segment, batches, moved, line);
        if (!err && leftovers->segment.fd < 0) {
            leftovers->at++;
            leftovers->bytes -= (int64_t)size;
        }
    }
    return err;
}

void
leftovers_close(struct leftovers *leftovers)
{
    journal_segment_close(&leftovers->segment);
    mem_free(leftovers->numbers);
    mem_free(leftovers->directory);
    *leftovers = (struct leftovers){.segment.fd = -1};
}
