#include "database.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <sqlite3.h>

#include "buf.h"
#include "io.h"
#include "mem.h"

#define BUSY_TIMEOUT_MS 5000
#define PATH_SIZE_MAX 4096
#define SCHEMA_VERSION 1

enum statement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,
    STATEMENT_ROLLBACK,
    STATEMENT_INSERT,
    STATEMENT_READ,
    STATEMENT_DELETE,
    STATEMENT_BURY,
    STATEMENT_BYTES,
    STATEMENT_COUNT
};

static const char *const STATEMENTS[STATEMENT_COUNT] = {
    [STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
    /* Not INSERT OR IGNORE: that would also swallow a record that breaks another constraint. */
    [STATEMENT_INSERT] =
        "INSERT INTO records (key, body) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING",
    [STATEMENT_READ] = "SELECT row, key, body FROM records WHERE row > ?1 ORDER BY row LIMIT ?2",
    [STATEMENT_DELETE] = "DELETE FROM records WHERE row = ?1",
    [STATEMENT_BURY] = "INSERT INTO dead (row, key, body, status, answer, buried_at)"
                       " SELECT row, key, body, ?2, ?3, ?4 FROM records WHERE row = ?1",
    [STATEMENT_BYTES] = "SELECT (page_count - freelist_count) * page_size"
                        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
};

static const char SET_UP[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 8388608";

/* AUTOINCREMENT: a row number is never used again, so a reader can go on after the last one it got.
 */
#define SCHEMA                                                                                     \
    "BEGIN IMMEDIATE;"                                                                             \
    "CREATE TABLE records (row INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, body " \
    "BLOB NOT NULL);"                                                                              \
    "CREATE TABLE dead (row INTEGER PRIMARY KEY, key TEXT NOT NULL, body BLOB NOT NULL, status "   \
    "INTEGER NOT NULL,"                                                                            \
    " answer TEXT NOT NULL, buried_at REAL NOT NULL);"                                             \
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('records', %lld);"                            \
    "PRAGMA user_version = %d;"                                                                    \
    "COMMIT"

struct database {
    sqlite3 *handle; /* NULL while it could not be opened again */
    sqlite3_stmt *statements[STATEMENT_COUNT];
    char *path;       /* NULL in memory */
    bool corrupt;     /* to be moved aside before anything else */
    int64_t last_row; /* the highest row number ever used */
    int64_t records, bytes;
    int64_t added; /* by the open transaction */
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

/* One number; 0 when the query gives no row. */
static enum err
query_number(struct database *database, sqlite3_stmt *statement, int64_t *out)
{
    enum err err = ERR_OK;
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
        *out = rc == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    }
    else {
        err = failed(database, "read");
    }
    sqlite3_reset(statement);
    return err;
}

static enum err
query_number_once(struct database *database, const char *sql, int64_t *out)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(database->handle, sql, -1, &statement, NULL) != SQLITE_OK) {
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

static enum err
prepare_schema(struct database *database)
{
    int64_t version = 0;
    enum err err = query_number_once(database, "PRAGMA user_version", &version);
    if (err) {
        return err;
    }
    if (version == SCHEMA_VERSION) {
        return ERR_OK;
    }
    if (version != 0) {
        say(database,
            "the activity database has schema version %lld and this program knows %d: start the "
            "program that"
            " wrote it, or name another ACTIVITY_SPOOL_DIR",
            (long long)version, SCHEMA_VERSION);
        return ERR_INVALID;
    }
    char sql[sizeof SCHEMA + 40];
    snprintf(sql, sizeof sql, SCHEMA, (long long)database->last_row, SCHEMA_VERSION);
    return exec(database, sql, "set up");
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
read_state(struct database *database)
{
    int64_t records = 0, last_row = 0, bytes = 0;
    enum err err = query_number_once(database, "SELECT count(*) FROM records", &records);
    if (err ||
        (err = query_number_once(database, "SELECT seq FROM sqlite_sequence WHERE name = 'records'",
                                 &last_row)) ||
        (err = query_number(database, database->statements[STATEMENT_BYTES], &bytes))) {
        return err;
    }
    database->records = records;
    database->last_row = last_row;
    database->bytes = bytes;
    return ERR_OK;
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
        (err = read_state(database))) {
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
    database->added = 0;
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
    database->records += database->added;
    /* Committed: failing to measure is no failure of the transaction. */
    if (query_number(database, database->statements[STATEMENT_BYTES], &database->bytes)) {
        database->message[0] = '\0';
    }
    return ERR_OK;
}

enum err
database_insert(struct database *database, struct slice key, struct slice body)
{
    sqlite3_stmt *statement = database->statements[STATEMENT_INSERT];
    sqlite3_bind_text(statement, 1, key.data, (int)key.len, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 2, body.len > 0 ? body.data : "", (int)body.len, SQLITE_STATIC);
    enum err err = run(database, STATEMENT_INSERT, "write to");
    sqlite3_clear_bindings(statement);
    if (!err && sqlite3_changes(database->handle) > 0) {
        database->added++;
        database->last_row = sqlite3_last_insert_rowid(database->handle);
    }
    return err;
}

enum err
database_delete(struct database *database, int64_t row)
{
    sqlite3_bind_int64(database->statements[STATEMENT_DELETE], 1, row);
    enum err err = run(database, STATEMENT_DELETE, "write to");
    if (!err) {
        database->added -= sqlite3_changes(database->handle);
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

const char *
database_message(const struct database *database)
{
    return database->message;
}

int64_t
database_records(const struct database *database)
{
    return database->records;
}

int64_t
database_bytes(const struct database *database)
{
    return database->bytes;
}

const char *
database_library_version(void)
{
    return sqlite3_libversion();
}
