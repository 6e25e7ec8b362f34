-- The tables of the queue. What must never be true is a constraint or a trigger, so that a fault in the code stops
-- instead of spoiling the queue.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Jobs with equal needs share one row; `body` is the JSON of jobs.Requirement, learned limits included.
CREATE TABLE requirement (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT;

-- `position` only orders: manifest order among equal priorities. `attempt` is the fence of the newest attempt, 0 before
-- the first. `ready` is 0 while a back-off runs. `pending_tick` is the fleet clock (seconds the receiver has lived) when
-- the job became pending. `failure` is the event of its newest bad end, empty once completed.
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 64 AND id NOT GLOB '*[^0-9a-f]*'),
    spec TEXT NOT NULL,
    model TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('realistic', 'oracle')),
    requirement INTEGER NOT NULL REFERENCES requirement (id),
    over_vram_gib REAL NOT NULL DEFAULT 0,
    over_ram_gib REAL NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL,
    position INTEGER NOT NULL,
    timeout_s INTEGER NOT NULL CHECK (timeout_s > 0),
    max_attempts INTEGER NOT NULL CHECK (max_attempts >= 1),
    named INTEGER NOT NULL DEFAULT 1 CHECK (named IN (0, 1)),
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'claimed', 'running', 'completed', 'failed', 'cancelled')),
    ready INTEGER NOT NULL DEFAULT 1 CHECK (ready IN (0, 1)),
    fence INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND fence),
    attempts_used INTEGER NOT NULL DEFAULT 0 CHECK (attempts_used BETWEEN 0 AND max_attempts),
    refunds INTEGER NOT NULL DEFAULT 0 CHECK (refunds >= 0),
    lease_id TEXT,
    host TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    pending_tick INTEGER NOT NULL DEFAULT 0,
    failure INTEGER,
    artifact TEXT,
    metrics TEXT NOT NULL DEFAULT '{}',
    content_digest TEXT,
    duration_s REAL,
    updated_at TEXT NOT NULL,
    CHECK ((status IN ('claimed', 'running')) = (lease_id IS NOT NULL)),
    CHECK ((status = 'completed') = (artifact IS NOT NULL)),
    CHECK (status <> 'pending' OR attempts_used < max_attempts),
    CHECK (ready = 1 OR status = 'pending'),
    CHECK (cancel_requested = 0 OR status IN ('claimed', 'running'))
) STRICT;

CREATE INDEX job_claimable ON job (requirement, priority DESC, position) WHERE status = 'pending' AND ready = 1;
CREATE INDEX job_by_requirement ON job (requirement);
CREATE INDEX job_delayed ON job (seq) WHERE ready = 0;
CREATE INDEX job_by_status ON job (status);
CREATE INDEX job_leased ON job (host) WHERE lease_id IS NOT NULL;
CREATE INDEX job_failures ON job (failure) WHERE failure IS NOT NULL;
CREATE INDEX job_unnamed ON job (seq) WHERE named = 0;

CREATE TABLE attempt (
    job INTEGER NOT NULL REFERENCES job (seq),
    fence INTEGER NOT NULL CHECK (fence >= 1),
    lease_id TEXT NOT NULL UNIQUE,
    worker TEXT NOT NULL,
    claim_id TEXT NOT NULL,
    claimed_at TEXT NOT NULL,
    started_at TEXT,
    ended_at TEXT,
    outcome TEXT CHECK (outcome IN ('completed', 'failed', 'expired', 'lost_claim', 'released', 'cancelled')),
    refunded INTEGER NOT NULL DEFAULT 0 CHECK (refunded IN (0, 1)),
    kind TEXT,
    exit_status INTEGER,
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (job, fence),
    UNIQUE (worker, claim_id),
    CHECK ((outcome IS NULL) = (ended_at IS NULL))
) STRICT, WITHOUT ROWID;

-- The end of the log of a job's newest failed attempt.
CREATE TABLE log (
    job INTEGER PRIMARY KEY REFERENCES job (seq),
    tail TEXT NOT NULL
) STRICT;

CREATE TABLE artifact (
    seq INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
    model TEXT NOT NULL,
    mode TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    stored_at TEXT NOT NULL,
    UNIQUE (sha256, model, mode)
) STRICT;

CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES job (seq),
    action TEXT NOT NULL CHECK (action IN (
        'claim', 'start', 'complete', 'fail', 'release', 'expire', 'adopt', 'cancel', 'requeue',
        'add', 'change', 'drop', 'restore'
    )),
    from_status TEXT,
    to_status TEXT NOT NULL,
    why TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX event_by_job ON event (job, id);

CREATE TABLE worker (
    name TEXT PRIMARY KEY,
    capability TEXT NOT NULL,
    seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A job with its newest attempt, as lists show it.
CREATE VIEW job_newest AS
SELECT
    j.*, a.claimed_at, a.ended_at, a.outcome, a.kind, a.exit_status, a.error
FROM job AS j LEFT JOIN attempt AS a ON a.job = j.seq AND a.fence = j.attempt;

CREATE TRIGGER job_completed_is_final BEFORE UPDATE OF status, artifact ON job
WHEN OLD.status = 'completed' AND (NEW.status IS NOT OLD.status OR NEW.artifact IS NOT OLD.artifact)
BEGIN
    SELECT RAISE(ABORT, 'a completed job is final');
END;

CREATE TRIGGER job_ends_reopen_by_requeue_only BEFORE UPDATE OF status ON job
WHEN OLD.status IN ('failed', 'cancelled') AND NEW.status NOT IN (OLD.status, 'pending')
BEGIN
    SELECT RAISE(ABORT, 'a failed or cancelled job can only become pending');
END;

CREATE TRIGGER job_fence_never_falls BEFORE UPDATE OF fence ON job
WHEN NEW.fence < OLD.fence
BEGIN
    SELECT RAISE(ABORT, 'a fence never goes back');
END;

CREATE TRIGGER job_identity_is_fixed BEFORE UPDATE OF seq, id, spec, model, mode ON job
BEGIN
    SELECT RAISE(ABORT, 'the identity of a job never changes');
END;

CREATE TRIGGER job_is_never_deleted BEFORE DELETE ON job
BEGIN
    SELECT RAISE(ABORT, 'jobs are never deleted');
END;

CREATE TRIGGER attempt_identity_is_fixed BEFORE UPDATE OF job, fence, lease_id, worker, claim_id ON attempt
BEGIN
    SELECT RAISE(ABORT, 'the identity of an attempt never changes');
END;

CREATE TRIGGER attempt_completed_is_final BEFORE UPDATE OF outcome ON attempt
WHEN OLD.outcome = 'completed' AND NEW.outcome IS NOT 'completed'
BEGIN
    SELECT RAISE(ABORT, 'a completed attempt is final');
END;

CREATE TRIGGER event_never_changes BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;
