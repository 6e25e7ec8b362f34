-- The statements on the connection and its transactions. They are SQLite's alone.

-- name: lock_exclusively
-- Keeps the file for this connection alone; must come before anything else touches it.
PRAGMA locking_mode = EXCLUSIVE;

-- name: journal_ahead
-- Commits append to a write-ahead log.
PRAGMA journal_mode = WAL;

-- name: sync_fully
-- A commit returns once it is on the disk.
PRAGMA synchronous = FULL;

-- name: synchronous
-- Reads the setting back: 2 is FULL.
PRAGMA synchronous;

-- name: bound_journal
-- Cuts the log file back to this size after a checkpoint.
PRAGMA journal_size_limit = 16777216;

-- name: bound_cache
-- Keeps at most this many KiB (negative) of pages in memory.
PRAGMA cache_size = -6144;

-- name: sort_in_memory
-- Temporary tables never touch the disk.
PRAGMA temp_store = MEMORY;

-- name: check_references
-- Foreign keys are enforced.
PRAGMA foreign_keys = ON;

-- name: schema_number
-- The newest migration that this file holds.
PRAGMA user_version;

-- name: check_quickly
-- Looks for damage; answers one row "ok" when there is none.
PRAGMA quick_check(1);

-- name: checkpoint_when_told
-- The log moves into the file only when the receiver says so, which then writes the sums of the pages down.
PRAGMA wal_autocheckpoint = 0;

-- name: checkpoint
-- Moves the log into the file and leaves it as it is until the next change; answers how many frames it has.
PRAGMA wal_checkpoint(PASSIVE);

-- name: empty_log
-- Empties the log, which has been moved into the file before.
PRAGMA wal_checkpoint(TRUNCATE);

-- name: ignore_references
-- Foreign keys are not enforced while tables are made again.
PRAGMA foreign_keys = OFF;

-- name: broken_references
-- Rows that name a row that is not there.
PRAGMA foreign_key_check;

-- name: journal_never
-- A copy that is cut off is thrown away.
PRAGMA journal_mode = OFF;

-- name: sync_never
-- A copy is synced once, when it is whole.
PRAGMA synchronous = OFF;

-- name: begin
-- Starts the transaction of a batch.
BEGIN IMMEDIATE;

-- name: commit
-- Makes a batch durable.
COMMIT;

-- name: rollback
-- Drops a batch.
ROLLBACK;

-- name: savepoint
-- Marks the start of one change within the batch.
SAVEPOINT change;

-- name: release
-- Keeps one change.
RELEASE change;

-- name: rollback_to
-- Drops one change, the batch goes on.
ROLLBACK TO change;
