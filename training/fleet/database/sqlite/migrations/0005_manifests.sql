-- `withdrawn` marks a job that the manifest no longer names: while it is pending, nobody is offered it. A status would
-- not do, because a job keeps its status whatever the manifest says. `name` and `tags` are labels outside the identity;
-- `tags` is a JSON list of texts.
ALTER TABLE job ADD COLUMN withdrawn INTEGER NOT NULL DEFAULT 0
    CHECK (withdrawn IN (0, 1) AND (withdrawn = 0 OR named = 0));

ALTER TABLE job ADD COLUMN name TEXT;

ALTER TABLE job ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';

DROP INDEX job_claimable;

CREATE INDEX job_claimable ON job (requirement, priority DESC, position)
WHERE status = 'pending' AND ready = 1 AND withdrawn = 0;

CREATE INDEX job_withdrawn ON job (seq) WHERE withdrawn = 1 AND status = 'pending';

CREATE INDEX job_by_name ON job (name) WHERE name IS NOT NULL;

-- The text of manifests that were in force, each once, compressed with zlib.
CREATE TABLE manifest_text (
    digest TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Which manifest came in force when, by whom and in which way; the newest 50.
CREATE TABLE manifest (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL REFERENCES manifest_text (digest),
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    how TEXT NOT NULL CHECK (how IN ('start', 'reload', 'signal', 'apply', 'rollback')),
    jobs INTEGER NOT NULL CHECK (jobs >= 0)
) STRICT;

CREATE INDEX manifest_by_digest ON manifest (digest);

-- An event may be about the manifest as a whole as well: then it has neither a job nor a worker.
CREATE TABLE event_of_manifest (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    job INTEGER REFERENCES job (seq),
    worker TEXT,
    action TEXT NOT NULL CHECK (action IN (
        'claim', 'start', 'complete', 'fail', 'release', 'expire', 'adopt', 'cancel', 'requeue',
        'add', 'change', 'drop', 'restore',
        'invite', 'enrol', 'replace', 'refuse', 'rotate', 'renew', 'revoke', 'clash',
        'apply'
    )),
    from_status TEXT,
    to_status TEXT,
    why TEXT NOT NULL DEFAULT '',
    CHECK ((job IS NULL) = (to_status IS NULL)),
    CHECK (job IS NULL OR worker IS NULL),
    CHECK ((action = 'apply') = (job IS NULL AND worker IS NULL))
) STRICT;

INSERT INTO event_of_manifest (id, at, actor, job, worker, action, from_status, to_status, why)
SELECT id, at, actor, job, worker, action, from_status, to_status, why FROM event;

DROP TABLE event;

ALTER TABLE event_of_manifest RENAME TO event;

CREATE INDEX event_by_job ON event (job, id) WHERE job IS NOT NULL;

CREATE TRIGGER event_never_changes BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;
