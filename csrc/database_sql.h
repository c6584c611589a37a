/* The SQL of the activity database: its schema by version, and the statements that are used again
 * and again.
 *
 * Static storage.
 *
 * For database.c only. */
#ifndef FORWARDER_DATABASE_SQL_H
#define FORWARDER_DATABASE_SQL_H

#define SCHEMA_VERSION 2

/* AUTOINCREMENT: a row number is never used again, so a reader can go on after the last one it got.
 */
static const char SCHEMA_TABLES[] =
    "CREATE TABLE records (row INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,"
    " body BLOB NOT NULL, added_at REAL NOT NULL);"
    "CREATE TABLE dead (row INTEGER PRIMARY KEY, key TEXT NOT NULL, body BLOB NOT NULL,"
    " status INTEGER NOT NULL, answer TEXT NOT NULL, buried_at REAL NOT NULL);";

/* Version 1 had no time and no counts.  When its records came is not known; the start of their age
 * is now. */
static const char SCHEMA_FROM_1[] =
    "ALTER TABLE records ADD COLUMN added_at REAL NOT NULL DEFAULT 0;"
    "UPDATE records SET added_at = (julianday('now') - 2440587.5) * 86400.0;";

/* Kept by triggers, so that whoever writes keeps them right: counting the rows of a full spool
 * takes seconds. */
static const char SCHEMA_COUNTS[] =
    "CREATE TABLE counts (records INTEGER NOT NULL, dead INTEGER NOT NULL);"
    "INSERT INTO counts SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM dead);"
    "CREATE TRIGGER records_added AFTER INSERT ON records BEGIN"
    " UPDATE counts SET records = records + 1; END;"
    "CREATE TRIGGER records_gone AFTER DELETE ON records BEGIN"
    " UPDATE counts SET records = records - 1; END;"
    "CREATE TRIGGER dead_added AFTER INSERT ON dead BEGIN"
    " UPDATE counts SET dead = dead + 1; END;"
    "CREATE TRIGGER dead_gone AFTER DELETE ON dead BEGIN"
    " UPDATE counts SET dead = dead - 1; END;";

enum statement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,
    STATEMENT_ROLLBACK,
    STATEMENT_INSERT,
    STATEMENT_READ,
    STATEMENT_DELETE,
    STATEMENT_DELETE_UNTIL,
    STATEMENT_TRIM,
    STATEMENT_BURY,
    STATEMENT_READ_DEAD,
    STATEMENT_INSERT_DEAD,
    STATEMENT_DELETE_DEAD_UNTIL,
    STATEMENT_STOCK,
    STATEMENT_VERSION,
    STATEMENT_COUNT
};

static const char *const STATEMENTS[STATEMENT_COUNT] = {
    [STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
    /* Not INSERT OR IGNORE: that would also swallow a record that breaks another constraint. */
    [STATEMENT_INSERT] = "INSERT INTO records (key, body, added_at) VALUES (?1, ?2, ?3)"
                         " ON CONFLICT (key) DO NOTHING",
    [STATEMENT_READ] = "SELECT row, key, body, added_at FROM records WHERE row > ?1"
                       " ORDER BY row LIMIT ?2",
    [STATEMENT_DELETE] = "DELETE FROM records WHERE row = ?1",
    [STATEMENT_DELETE_UNTIL] = "DELETE FROM records WHERE row <= ?1",
    [STATEMENT_TRIM] = "DELETE FROM records WHERE row IN"
                       " (SELECT row FROM records WHERE row > ?1 ORDER BY row LIMIT ?2)",
    [STATEMENT_BURY] = "INSERT INTO dead (key, body, status, answer, buried_at)"
                       " SELECT key, body, ?2, ?3, ?4 FROM records WHERE row = ?1",
    [STATEMENT_READ_DEAD] = "SELECT row, key, body, status, answer, buried_at FROM dead"
                            " ORDER BY row LIMIT ?1",
    [STATEMENT_INSERT_DEAD] = "INSERT INTO dead (key, body, status, answer, buried_at)"
                              " VALUES (?1, ?2, ?3, ?4, ?5)",
    [STATEMENT_DELETE_DEAD_UNTIL] = "DELETE FROM dead WHERE row <= ?1",
    [STATEMENT_STOCK] =
        "SELECT counts.records, counts.dead,"
        " (SELECT (page_count - freelist_count) * page_size"
        " FROM pragma_page_count, pragma_freelist_count, pragma_page_size),"
        " ifnull((SELECT added_at FROM records ORDER BY row LIMIT 1), 0),"
        " (SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size),"
        " ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0) FROM counts",
    [STATEMENT_VERSION] = "PRAGMA data_version",
};

#endif
