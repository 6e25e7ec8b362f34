-- `gone` says why the files of an artifact are not here: `pruned`, removed on purpose, or `lost`, found missing when its
-- job was requeued. `files_left` is 1 from the moment an artifact is pruned until its files are removed.
ALTER TABLE artifact ADD COLUMN gone TEXT CHECK (gone IN ('pruned', 'lost'));

ALTER TABLE artifact ADD COLUMN gone_at TEXT CHECK ((gone IS NULL) = (gone_at IS NULL));

ALTER TABLE artifact ADD COLUMN files_left INTEGER NOT NULL DEFAULT 0
    CHECK (files_left = 0 OR (files_left = 1 AND gone IS 'pruned'));

CREATE INDEX artifact_files_left ON artifact (seq) WHERE files_left = 1;

-- That the artifact of a job is pruned is an event of the job.
CREATE TABLE event_of_prune (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    job INTEGER REFERENCES job (seq),
    worker TEXT,
    action TEXT NOT NULL CHECK (action IN (
        'claim', 'start', 'complete', 'fail', 'release', 'expire', 'adopt', 'cancel', 'requeue',
        'add', 'change', 'drop', 'restore', 'prune',
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

INSERT INTO event_of_prune (id, at, actor, job, worker, action, from_status, to_status, why)
SELECT id, at, actor, job, worker, action, from_status, to_status, why FROM event;

DROP TABLE event;

ALTER TABLE event_of_prune RENAME TO event;

CREATE INDEX event_by_job ON event (job, id) WHERE job IS NOT NULL;

CREATE TRIGGER event_never_changes BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;

-- A completed job is final, but for one whose artifact is lost: only training it again brings its result back.
DROP TRIGGER job_completed_is_final;

CREATE TRIGGER job_completed_is_final BEFORE UPDATE OF status, artifact ON job
WHEN OLD.status = 'completed' AND (NEW.status IS NOT OLD.status OR NEW.artifact IS NOT OLD.artifact)
AND NOT (
    NEW.status = 'pending' AND NEW.artifact IS NULL AND NEW.fence > OLD.fence
    AND EXISTS (
        SELECT 1 FROM artifact AS a
        WHERE a.sha256 = OLD.artifact AND a.model = OLD.model AND a.mode = OLD.mode AND a.gone = 'lost'
    )
)
BEGIN
    SELECT RAISE(ABORT, 'a completed job is final while its artifact is not lost');
END;

DROP TRIGGER attempt_completed_is_final;

CREATE TRIGGER attempt_completed_is_final BEFORE UPDATE OF outcome ON attempt
WHEN OLD.outcome = 'completed' AND NEW.outcome IS NOT 'completed'
AND NOT (
    NEW.outcome = 'released'
    AND EXISTS (
        SELECT 1 FROM job AS j JOIN artifact AS a ON a.sha256 = j.artifact AND a.model = j.model AND a.mode = j.mode
        WHERE j.seq = OLD.job AND j.status = 'completed' AND a.gone = 'lost'
    )
)
BEGIN
    SELECT RAISE(ABORT, 'a completed attempt is final while its artifact is not lost');
END;
