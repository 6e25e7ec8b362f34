-- One enrolment of a worker. `digest` is that of its key, `next_digest` that of the key which takes over at its first
-- use; the keys themselves never reach the receiver. `rotate` asks the worker to make a new key. `place` is where it was
-- used last. A worker has one identity that lives; enrolling anew revokes the one before.
CREATE TABLE identity (
    id TEXT PRIMARY KEY,
    worker TEXT NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    next_digest TEXT CHECK (length(next_digest) = 64 AND next_digest NOT GLOB '*[^0-9a-f]*'),
    rotate INTEGER NOT NULL DEFAULT 0 CHECK (rotate IN (0, 1)),
    created_at TEXT NOT NULL,
    revoked_at TEXT,
    fingerprint TEXT,
    place TEXT
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX identity_living ON identity (worker) WHERE revoked_at IS NULL;

-- `digest` is that of the one-time code. `expires_tick` is on the fleet clock, `expires_at` on the wall clock:
-- whichever is over first. `identity` is what the code was exchanged for.
CREATE TABLE invite (
    digest TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    worker TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    expires_tick INTEGER NOT NULL,
    identity TEXT REFERENCES identity (id)
) STRICT, WITHOUT ROWID;

-- Events of identities stand beside those of jobs, so that one number orders all of them: a row has a job and the
-- status it came to, or a worker.
CREATE TABLE event_of_all (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    job INTEGER REFERENCES job (seq),
    worker TEXT,
    action TEXT NOT NULL CHECK (action IN (
        'claim', 'start', 'complete', 'fail', 'release', 'expire', 'adopt', 'cancel', 'requeue',
        'add', 'change', 'drop', 'restore',
        'invite', 'enrol', 'replace', 'refuse', 'rotate', 'renew', 'revoke', 'clash'
    )),
    from_status TEXT,
    to_status TEXT,
    why TEXT NOT NULL DEFAULT '',
    CHECK ((job IS NULL) = (to_status IS NULL)),
    CHECK ((job IS NULL) <> (worker IS NULL))
) STRICT;

INSERT INTO event_of_all (id, at, actor, job, action, from_status, to_status, why)
SELECT id, at, actor, job, action, from_status, to_status, why FROM event;

DROP TABLE event;

ALTER TABLE event_of_all RENAME TO event;

CREATE INDEX event_by_job ON event (job, id) WHERE job IS NOT NULL;

CREATE TRIGGER event_never_changes BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;
