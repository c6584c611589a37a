#include "database.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sqlite3.h>

#include "buf.h"
#include "database_sql.h"
#include "io.h"
#include "mem.h"

#define BUSY_TIMEOUT_MS 5000
#define PATH_SIZE_MAX 4096
#define PAGE_SIZE 4096
static const char SET_UP[] =
    "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
    "PRAGMA journal_size_limit = 2097152; PRAGMA wal_autocheckpoint = 500";

struct database {
    sqlite3 *handle; /* NULL while it could not be opened again */
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char *path;       /* NULL in memory */
    bool corrupt;     /* to be moved aside before anything else */
    bool ran_full;
    struct database_stock stock;
    int64_t last_row; /* the highest row number ever used */
    int64_t version;  /* of the file: another one means that somebody else has written */
    char message[DATABASE_MESSAGE_SIZE];
};

/* ---- failures ---- */

static void say(struct database *database, const char *format, ...) PRINTF_LIKE(2, 3);

static void
say(struct database *database, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(database->message, sizeof database->message, format, arguments);
    va_end(arguments);
}

static enum err
failed(struct database *database, const char *what)
{
    int code = sqlite3_errcode(database->handle) & 0xff;
    database->ran_full = code == SQLITE_FULL;
    database->corrupt = database->corrupt || code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
    say(database, "cannot %s the activity database: %s", what, sqlite3_errmsg(database->handle));
    return code == SQLITE_NOMEM ? ERR_MEMORY : ERR_LIBRARY;
}

static enum err
failed_io(struct database *database, enum err err, const char *what)
{
    say(database, "cannot %s the activity database %s: %s", what, database->path,
        err == ERR_IO ? strerror(errno) : err_text(err));
    return err;
}

/* ---- statements ---- */

/* Steps a statement that gives no rows.  The message has to be read before the reset. */
static enum err
run(struct database *database, enum statement which, const char *what)
{
    sqlite3_stmt *statement = database->statements[which];
    enum err err = sqlite3_step(statement) == SQLITE_DONE ? ERR_OK : failed(database, what);
    sqlite3_reset(statement);
    return err;
}

/* One number. */
static enum err
query_number(struct database *database, sqlite3_stmt *statement, int64_t *out)
{
    enum err err = ERR_OK;
    if (sqlite3_step(statement) == SQLITE_ROW) {
        *out = sqlite3_column_int64(statement, 0);
    }
    else {
        err = failed(database, "read");
    }
    sqlite3_reset(statement);
    return err;
}

static enum err
query_schema_version(struct database *database, int64_t *out)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(database->handle, "PRAGMA user_version", -1, &statement, NULL) !=
        SQLITE_OK) {
        return failed(database, "read");
    }
    enum err err = query_number(database, statement, out);
    sqlite3_finalize(statement);
    return err;
}

static enum err
exec(struct database *database, const char *sql, const char *what)
{
    return sqlite3_exec(database->handle, sql, NULL, NULL, NULL) == SQLITE_OK
               ? ERR_OK
               : failed(database, what);
}

/* ---- opening ---- */

static void
close_handle(struct database *database)
{
    for (size_t i = 0; i < STATEMENT_COUNT; i++) {
        sqlite3_finalize(database->statements[i]);
        database->statements[i] = NULL;
    }
    sqlite3_close(database->handle);
    database->handle = NULL;
}

/* One transaction: a crash leaves the old schema or the new one. */
static enum err
write_schema(struct database *database, int64_t from)
{
    struct buf sql;
    buf_init(&sql, 16 * 1024);
    enum err err = buf_append_format(&sql, "BEGIN IMMEDIATE;%s%s",
                                     from == 1 ? SCHEMA_FROM_1 : SCHEMA_TABLES, SCHEMA_COUNTS);
    if (!err && from == 0) {
        err = buf_append_format(
            &sql, "INSERT INTO sqlite_sequence (name, seq) VALUES ('records', %lld);",
            (long long)database->last_row);
    }
    if (!err) {
        err = buf_append_format(&sql, "PRAGMA user_version = %d; COMMIT", SCHEMA_VERSION);
    }
    if (!err) {
        err = exec(database, buf_string(&sql), "set up");
    }
    buf_fini(&sql);
    return err;
}

static enum err
prepare_schema(struct database *database)
{
    int64_t version = 0;
    enum err err = query_schema_version(database, &version);
    if (err || version == SCHEMA_VERSION) {
        return err;
    }
    if (version < 0 || version > SCHEMA_VERSION) {
        say(database,
            "the activity database has schema version %lld and this program knows %d: start the "
            "program that"
            " wrote it, or name another ACTIVITY_SPOOL_DIR",
            (long long)version, SCHEMA_VERSION);
        return ERR_INVALID;
    }
    return write_schema(database, version);
}

static enum err
prepare_statements(struct database *database)
{
    for (size_t i = 0; i < STATEMENT_COUNT; i++) {
        if (sqlite3_prepare_v3(database->handle, STATEMENTS[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &database->statements[i], NULL) != SQLITE_OK) {
            return failed(database, "set up");
        }
    }
    return ERR_OK;
}

static enum err
take_stock(struct database *database)
{
    sqlite3_stmt *statement = database->statements[STATEMENT_STOCK];
    enum err err = ERR_OK;
    if (sqlite3_step(statement) == SQLITE_ROW) {
        database->stock = (struct database_stock){
            .records = sqlite3_column_int64(statement, 0),
            .dead = sqlite3_column_int64(statement, 1),
            .bytes = sqlite3_column_int64(statement, 2),
            .oldest_at = sqlite3_column_double(statement, 3),
        };
        database->stock.unused = sqlite3_column_int64(statement, 4);
        int64_t last_row = sqlite3_column_int64(statement, 5);
        database->last_row = last_row > database->last_row ? last_row : database->last_row;
    }
    else {
        err = failed(database, "read");
    }
    sqlite3_reset(statement);
    return err;
}

/* SQLite would make the file readable by everyone; the files it puts beside it take its mode. */
static enum err
make_private_file(struct database *database)
{
    int fd;
    enum err err = io_open(database->path, O_RDWR | O_CREAT, &fd);
    if (err) {
        return failed_io(database, err, "open");
    }
    io_close(fd);
    return ERR_OK;
}

/* Opens the file as it is; on failure the handle is closed again. */
static enum err
open_handle(struct database *database)
{
    enum err err = database->path != NULL ? make_private_file(database) : ERR_OK;
    if (err) {
        return err;
    }
    if (sqlite3_open_v2(database->path != NULL ? database->path : ":memory:", &database->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        err = failed(database, "open");
    }
    if (!err) {
        sqlite3_busy_timeout(database->handle, BUSY_TIMEOUT_MS);
        err = exec(database, SET_UP, "set up");
    }
    if (err || (err = prepare_schema(database)) || (err = prepare_statements(database)) ||
        (err = take_stock(database)) ||
        (err = query_number(database, database->statements[STATEMENT_VERSION],
                            &database->version))) {
        close_handle(database);
    }
    return err;
}

static enum err
rename_with_suffix(const char *path, const char *suffix, long long when)
{
    struct buf from, to;
    buf_init(&from, PATH_SIZE_MAX);
    buf_init(&to, PATH_SIZE_MAX);
    enum err err = buf_append_format(&from, "%s%s", path, suffix);
    if (!err && !(err = buf_append_format(&to, "%s.corrupt-%lld%s", path, when, suffix))) {
        err = io_rename(buf_string(&from), buf_string(&to));
        /* A write-ahead log is there only if the last process did not end well. */
        if (err == ERR_IO && errno == ENOENT) {
            err = ERR_OK;
        }
    }
    buf_fini(&from);
    buf_fini(&to);
    return err;
}

/* Keeps what SQLite cannot read for whoever wants to rescue it. */
static enum err
move_aside(struct database *database)
{
    static const char *const suffixes[] = {"-wal", "-shm", ""};
    long long now = (long long)time(NULL);
    for (size_t i = 0; database->path != NULL && i < COUNT_OF(suffixes); i++) {
        enum err err = rename_with_suffix(database->path, suffixes[i], now);
        if (err) {
            return failed_io(database, err, "move aside");
        }
    }
    say(database,
        "the activity database was corrupt; it is kept as %s.corrupt-%lld and a new one is in use",
        database->path != NULL ? database->path : "memory", now);
    return ERR_OK;
}

/* Has an open, working handle afterwards. */
static enum err
open_or_replace(struct database *database)
{
    enum err err = ERR_OK;
    if (!database->corrupt && !(err = open_handle(database))) {
        return ERR_OK;
    }
    if (!database->corrupt) {
        return err;
    }
    close_handle(database);
    if ((err = move_aside(database))) {
        return err;
    }
    database->corrupt = false;
    return open_handle(database);
}

/* At the start of every call. */
static enum err
get_ready(struct database *database)
{
    database->message[0] = '\0';
    database->ran_full = false;
    if (database->handle != NULL && !database->corrupt) {
        return ERR_OK;
    }
    return open_or_replace(database);
}

/* At the end of every call.  The message then says what happened to the file, which is more than
 * SQLite's words. */
static enum err
replace_if_corrupt(struct database *database, enum err err)
{
    if (!database->corrupt) {
        return err;
    }
    enum err replaced = open_or_replace(database);
    return err ? err : replaced;
}

enum err
database_create(const char *path, struct database **out, char message[DATABASE_MESSAGE_SIZE])
{
    enum err err = ERR_MEMORY;
    struct database *database = mem_zalloc(sizeof *database);
    snprintf(message, DATABASE_MESSAGE_SIZE, "cannot open the activity database: %s",
             err_text(err));
    if (database == NULL) {
        return err;
    }
    if (path == NULL || (database->path = mem_string(path)) != NULL) {
        err = open_or_replace(database);
        memcpy(message, database->message, sizeof database->message);
    }
    if (err) {
        database_destroy(database);
        return err;
    }
    *out = database;
    return ERR_OK;
}

void
database_destroy(struct database *database)
{
    if (database == NULL) {
        return;
    }
    close_handle(database);
    mem_free(database->path);
    mem_free(database);
}

/* ---- the public calls ---- */

enum err
database_begin(struct database *database)
{
    enum err err = get_ready(database);
    if (err) {
        return err;
    }
    return replace_if_corrupt(database, run(database, STATEMENT_BEGIN, "write to"));
}

enum err
database_end(struct database *database, enum err err)
{
    if (!err) {
        err = run(database, STATEMENT_COMMIT, "write to");
    }
    if (err) {
        /* Some failures have rolled back by themselves. */
        if (!sqlite3_get_autocommit(database->handle)) {
            sqlite3_step(database->statements[STATEMENT_ROLLBACK]);
            sqlite3_reset(database->statements[STATEMENT_ROLLBACK]);
        }
        return replace_if_corrupt(database, err);
    }
    /* Committed: failing to measure is no failure of the transaction. */
    if (take_stock(database)) {
        database->message[0] = '\0';
    }
    return ERR_OK;
}

enum err
database_insert(struct database *database, struct slice key, struct slice body, double added_at)
{
    sqlite3_stmt *statement = database->statements[STATEMENT_INSERT];
    sqlite3_bind_text(statement, 1, key.data, (int)key.len, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 2, body.len > 0 ? body.data : "", (int)body.len, SQLITE_STATIC);
    sqlite3_bind_double(statement, 3, added_at);
    enum err err = run(database, STATEMENT_INSERT, "write to");
    sqlite3_clear_bindings(statement);
    return err;
}

static enum err
delete_rows(struct database *database, enum statement which, int64_t row)
{
    sqlite3_bind_int64(database->statements[which], 1, row);
    return run(database, which, "write to");
}

enum err
database_delete(struct database *database, int64_t row)
{
    return delete_rows(database, STATEMENT_DELETE, row);
}

enum err
database_trim(struct database *database, int64_t after_row, size_t max, size_t *dropped)
{
    sqlite3_bind_int64(database->statements[STATEMENT_TRIM], 2, (int64_t)max);
    enum err err = delete_rows(database, STATEMENT_TRIM, after_row);
    if (!err) {
        *dropped = (size_t)sqlite3_changes(database->handle);
    }
    return err;
}

enum err
database_bury(struct database *database, int64_t row, int status, struct slice answer,
              double buried_at)
{
    sqlite3_stmt *statement = database->statements[STATEMENT_BURY];
    sqlite3_bind_int64(statement, 1, row);
    sqlite3_bind_int(statement, 2, status);
    sqlite3_bind_text(statement, 3, answer.data, (int)answer.len, SQLITE_STATIC);
    sqlite3_bind_double(statement, 4, buried_at);
    enum err err = run(database, STATEMENT_BURY, "write to");
    sqlite3_clear_bindings(statement);
    if (!err && sqlite3_changes(database->handle) == 0) {
        say(database, "activity record %lld is not in the database", (long long)row);
        err = ERR_MISSING;
    }
    return err ? err : database_delete(database, row);
}

static struct slice
column(sqlite3_stmt *statement, int index)
{
    const void *data = sqlite3_column_blob(statement, index);
    return (struct slice){data != NULL ? data : "", (size_t)sqlite3_column_bytes(statement, index)};
}

enum err
database_read(struct database *database, int64_t after_row, size_t max, database_row_fn *row_fn,
              void *context)
{
    enum err err = get_ready(database);
    if (err) {
        return err;
    }
    sqlite3_stmt *statement = database->statements[STATEMENT_READ];
    sqlite3_bind_int64(statement, 1, after_row);
    sqlite3_bind_int64(statement, 2, (int64_t)max);
    int rc;
    while (!err && (rc = sqlite3_step(statement)) != SQLITE_DONE) {
        if (rc == SQLITE_ROW) {
            err = row_fn(context, sqlite3_column_int64(statement, 0), column(statement, 1),
                         column(statement, 2));
        }
        else {
            err = failed(database, "read");
        }
    }
    sqlite3_reset(statement);
    return replace_if_corrupt(database, err);
}

/* ---- from one database into another ---- */

/* Copies up to max rows that `which` of the source gives; *last is the last one's number, 0 when
 * there was none. */
static enum err
copy_records(struct database *database, struct database *source, size_t max, int64_t *last)
{
    sqlite3_stmt *from = source->statements[STATEMENT_READ];
    enum err err = ERR_OK;
    int rc;
    sqlite3_bind_int64(from, 1, 0);
    sqlite3_bind_int64(from, 2, (int64_t)max);
    while (!err && (rc = sqlite3_step(from)) != SQLITE_DONE) {
        if (rc != SQLITE_ROW) {
            err = failed(source, "read");
            break;
        }
        err = database_insert(database, column(from, 1), column(from, 2),
                              sqlite3_column_double(from, 3));
        *last = sqlite3_column_int64(from, 0);
    }
    sqlite3_reset(from);
    return err;
}

static enum err
copy_dead(struct database *database, struct database *source, size_t max, int64_t *last)
{
    sqlite3_stmt *from = source->statements[STATEMENT_READ_DEAD];
    sqlite3_stmt *into = database->statements[STATEMENT_INSERT_DEAD];
    enum err err = ERR_OK;
    int rc;
    sqlite3_bind_int64(from, 1, (int64_t)max);
    while (!err && (rc = sqlite3_step(from)) != SQLITE_DONE) {
        if (rc != SQLITE_ROW) {
            err = failed(source, "read");
            break;
        }
        for (int i = 1; i <= 5; i++) {
            sqlite3_bind_value(into, i, sqlite3_column_value(from, i));
        }
        err = run(database, STATEMENT_INSERT_DEAD, "write to");
        sqlite3_clear_bindings(into);
        *last = sqlite3_column_int64(from, 0);
    }
    sqlite3_reset(from);
    return err;
}

/* Two transactions, ours first: a crash in between leaves a record in both, where its key tells. */
enum err
database_absorb(struct database *database, struct database *source, size_t max, bool *more)
{
    int64_t last = 0, last_dead = 0;
    enum err err = get_ready(source);
    if (err || (err = database_begin(database))) {
        return err;
    }
    err = copy_records(database, source, max, &last);
    if (!err) {
        err = copy_dead(database, source, max, &last_dead);
    }
    if ((err = database_end(database, err))) {
        return replace_if_corrupt(source, err);
    }
    if ((err = database_begin(source))) {
        return err;
    }
    err = delete_rows(source, STATEMENT_DELETE_UNTIL, last);
    if (!err) {
        err = delete_rows(source, STATEMENT_DELETE_DEAD_UNTIL, last_dead);
    }
    if (!(err = database_end(source, err))) {
        *more = last != 0 || last_dead != 0;
    }
    return err;
}

bool
database_ran_full(const struct database *database)
{
    return database->ran_full;
}

enum err
database_checkpoint(struct database *database)
{
    enum err err = get_ready(database);
    if (!err && sqlite3_wal_checkpoint_v2(database->handle, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL,
                                          NULL) != SQLITE_OK) {
        err = failed(database, "write back");
    }
    return replace_if_corrupt(database, err);
}

enum err
database_shrink(struct database *database, int64_t max_bytes)
{
    char sql[64];
    enum err err = get_ready(database);
    if (err) {
        return err;
    }
    snprintf(sql, sizeof sql, "PRAGMA incremental_vacuum(%lld)",
             (long long)(max_bytes / PAGE_SIZE));
    if (!(err = exec(database, sql, "shrink")) && !(err = take_stock(database))) {
        err = database_checkpoint(database);
    }
    return replace_if_corrupt(database, err);
}

void
database_look(struct database *database)
{
    int64_t version = database->version;
    if (get_ready(database) ||
        query_number(database, database->statements[STATEMENT_VERSION], &version)) {
        return;
    }
    if (version != database->version && !take_stock(database)) {
        database->version = version;
    }
}

const char *
database_message(const struct database *database)
{
    return database->message;
}

struct database_stock
database_stock(const struct database *database)
{
    return database->stock;
}

const char *
database_library_version(void)
{
    return sqlite3_libversion();
}
