-- A queue with the tables of schema 5: that of schema 4, brought up to date. Made with sqlite3's own dump.
BEGIN TRANSACTION;
CREATE TABLE artifact (
    seq INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
    model TEXT NOT NULL,
    mode TEXT NOT NULL,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    stored_at TEXT NOT NULL,
    UNIQUE (sha256, model, mode)
) STRICT;
INSERT INTO "artifact" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','gbt','realistic',10,'2026-01-01T00:00:00.000Z');
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
    error_id INTEGER REFERENCES error (id), process TEXT, card TEXT,
    PRIMARY KEY (job, fence),
    UNIQUE (worker, claim_id),
    CHECK ((outcome IS NULL) = (ended_at IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO "attempt" VALUES(1,1,'Z-6wk7Ni8mIHHFEZaHPH47V2','pi','claim-0002','2026-01-01T00:00:00.000Z','2026-01-01T00:00:00.000Z','2026-01-01T00:00:00.000Z','completed',0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(2,1,'t0dh5XUzqL3IGcQBML-xeC0m','pi','claim-0003','2026-01-01T00:00:00.000Z','2026-01-01T00:00:00.000Z','2026-01-01T00:00:00.000Z','failed',0,'spec_rejected',1,1,NULL,NULL);
INSERT INTO "attempt" VALUES(3,1,'-BIOBVU6WUznC0dqVqz2VjuT','tower','claim-0004','2026-01-01T00:00:00.000Z','2026-01-01T00:00:00.000Z',NULL,NULL,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(4,1,'NpNXArk1G4wEWjg534kEWTKx','nas','claim-0005','2026-01-01T00:00:00.000Z',NULL,'2026-01-01T00:00:00.000Z','lost_claim',1,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(4,2,'LFFREd4HsrdATWiVK_xdSYl9','van','claim-0007','2026-01-01T00:00:00.000Z',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "attempt" VALUES(5,1,'WwdOf_9U1gkRFZix54WngPfs','box','claim-0006','2026-01-01T00:00:00.000Z',NULL,'2026-01-01T00:00:00.000Z','lost_claim',1,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE error (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO "error" VALUES(1,'no such key');
CREATE TABLE "event" (
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
INSERT INTO "event" VALUES(1,'2026-01-01T00:00:00.000Z','receiver',1,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(2,'2026-01-01T00:00:00.000Z','receiver',2,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(3,'2026-01-01T00:00:00.000Z','receiver',3,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(4,'2026-01-01T00:00:00.000Z','receiver',4,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(5,'2026-01-01T00:00:00.000Z','receiver',5,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(6,'2026-01-01T00:00:00.000Z','receiver',6,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(7,'2026-01-01T00:00:00.000Z','receiver',7,NULL,'add',NULL,'pending','');
INSERT INTO "event" VALUES(8,'2026-01-01T00:00:00.000Z','worker:pi',1,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(9,'2026-01-01T00:00:00.000Z','worker:pi',1,NULL,'start','claimed','running','');
INSERT INTO "event" VALUES(10,'2026-01-01T00:00:00.000Z','worker:pi',1,NULL,'complete','running','completed','');
INSERT INTO "event" VALUES(11,'2026-01-01T00:00:00.000Z','worker:pi',2,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(12,'2026-01-01T00:00:00.000Z','worker:pi',2,NULL,'start','claimed','running','');
INSERT INTO "event" VALUES(13,'2026-01-01T00:00:00.000Z','worker:pi',2,NULL,'fail','running','failed','spec_rejected: no such key');
INSERT INTO "event" VALUES(14,'2026-01-01T00:00:00.000Z','worker:tower',3,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(15,'2026-01-01T00:00:00.000Z','worker:tower',3,NULL,'start','claimed','running','');
INSERT INTO "event" VALUES(16,'2026-01-01T00:00:00.000Z','worker:nas',4,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(17,'2026-01-01T00:00:00.000Z','worker:box',5,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(18,'2026-01-01T00:00:00.000Z','receiver',4,NULL,'expire','claimed','pending','nas did not acknowledge the job in time');
INSERT INTO "event" VALUES(19,'2026-01-01T00:00:00.000Z','receiver',5,NULL,'expire','claimed','pending','box did not acknowledge the job in time');
INSERT INTO "event" VALUES(20,'2026-01-01T00:00:00.000Z','operator:test',7,NULL,'cancel','pending','cancelled','');
INSERT INTO "event" VALUES(21,'2026-01-01T00:00:00.000Z','worker:van',4,NULL,'claim','pending','claimed','');
INSERT INTO "event" VALUES(22,'2026-01-01T00:00:00.000Z','worker:pi',NULL,'pi','enrol',NULL,NULL,'identity 0123456789abcdef01');
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
INSERT INTO "identity" VALUES('0123456789abcdef01','pi','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',NULL,0,'2026-01-01T00:00:00.000Z',NULL,NULL,NULL);
CREATE TABLE invite (
    digest TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    worker TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    expires_tick INTEGER NOT NULL,
    identity TEXT REFERENCES identity (id)
) STRICT, WITHOUT ROWID;
INSERT INTO "invite" VALUES('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','pi','2026-01-01T00:00:00.000Z','2026-01-01T01:00:00.000Z',3600,'0123456789abcdef01');
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
    updated_at TEXT NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0
    CHECK (withdrawn IN (0, 1) AND (withdrawn = 0 OR named = 0)), name TEXT, tags TEXT NOT NULL DEFAULT '[]',
    CHECK ((status IN ('claimed', 'running')) = (lease_id IS NOT NULL)),
    CHECK ((status = 'completed') = (artifact IS NOT NULL)),
    CHECK (status <> 'pending' OR attempts_used < max_attempts),
    CHECK (ready = 1 OR status = 'pending'),
    CHECK (cancel_requested = 0 OR status IN ('claimed', 'running'))
) STRICT;
INSERT INTO "job" VALUES(1,'bcb80fabbcd07ce5d5d3fc8dddb28378156cdfa9c5129169e4e52f5e58bee9d9','{"hyper":{"max_iter":0},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,1048576,86400,3,1,'completed',1,1,1,1,0,NULL,'pi',0,0,NULL,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"auroc":0.9}','sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',12.5,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(2,'2337878c0599b43e90de2d98e5d0a0cd67fff425401fc35f8857d1416136ec28','{"hyper":{"max_iter":1},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,2097152,86400,3,1,'failed',1,1,1,1,0,NULL,'pi',0,0,13,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(3,'27d889f1e62db19005072ffd3378af4747c3d73ee83e0b4779b4181dad7ca26b','{"hyper":{"max_iter":2},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,3145728,86400,3,1,'running',1,1,1,1,0,'-BIOBVU6WUznC0dqVqz2VjuT','tower',0,0,NULL,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(4,'3b2cd2b850566235ccc7a5cd3e4a114717f4ca67a9221f5d5499d910a28db820','{"hyper":{"max_iter":3},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,4194304,86400,3,1,'claimed',1,2,2,1,1,'LFFREd4HsrdATWiVK_xdSYl9','van',0,90,18,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(5,'b76f01a3415eace7993034453c28e270203cd52d801500548265dc4d8ccea01c','{"hyper":{"max_iter":4},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,5242880,86400,3,1,'pending',1,1,1,0,1,NULL,'box',0,90,19,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(6,'76967c86a37fd7c1f9657d9138c01a601e07fd3d735f9c3e63a69065e11a4507','{"hyper":{"max_iter":5},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,6291456,86400,3,1,'pending',1,0,0,0,0,NULL,NULL,0,0,NULL,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
INSERT INTO "job" VALUES(7,'bde76a422306166d2823b3e2b11d6b6f5dc0cfcf0f2707360b7f5f4a31cc1f0b','{"hyper":{"max_iter":6},"mode":"realistic","model":"gbt","seed":490,"split_recipe":"hosts","train_hosts":["*"],"v":1}','gbt','realistic',1,0.0,0.0,0,7340032,86400,3,1,'cancelled',1,0,0,0,0,NULL,NULL,0,0,NULL,NULL,'{}',NULL,NULL,'2026-01-01T00:00:00.000Z',0,NULL,'[]');
CREATE TABLE log (
    job INTEGER PRIMARY KEY REFERENCES job (seq),
    tail TEXT NOT NULL
) STRICT;
INSERT INTO "log" VALUES(2,'line one
line two');
CREATE TABLE manifest (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL REFERENCES manifest_text (digest),
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    how TEXT NOT NULL CHECK (how IN ('start', 'reload', 'signal', 'apply', 'rollback')),
    jobs INTEGER NOT NULL CHECK (jobs >= 0)
) STRICT;
CREATE TABLE manifest_text (
    digest TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('fleet_clock_s','60');
INSERT INTO "meta" VALUES('manifest','{"digest": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", "hosts": {"default": {"allow_jobs": ["*"], "deny_jobs": [], "slots": 1, "cuda": null, "vram_gib": null, "ram_gib": null}}, "trainer": {"command": ["{python}", "-m", "training.trainer.run"], "contract": null}, "datasets": {}, "contract": null, "count": 7, "applied_at": "2026-01-01T00:00:00.000Z"}');
INSERT INTO "meta" VALUES('manifest_half_written','');
CREATE TABLE part (
    artifact INTEGER NOT NULL REFERENCES artifact (seq) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> '' AND name NOT GLOB '*[^0-9A-Za-z_.-]*' AND name NOT GLOB '[-.]*'),
    size_bytes INTEGER NOT NULL CHECK (size_bytes BETWEEN 0 AND 2097152),
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
    PRIMARY KEY (artifact, name)
) STRICT;
CREATE TABLE requirement (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT;
INSERT INTO "requirement" VALUES(1,'86fcdecf0608f8272fe54e5c7a24384821c1c3714dc0567ba76cd1c8704c6241','{"model":"gbt","require_cuda":false,"prefer_cuda":false,"min_vram_gib":0,"min_ram_gib":0,"allowed_hosts":[],"dataset":null,"contract":null,"over_vram_gib":0,"over_ram_gib":0}');
CREATE TABLE worker (
    name TEXT PRIMARY KEY,
    capability TEXT NOT NULL,
    seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "worker" VALUES('box','{"hostname":"box","os":"","os_version":"","arch":"","cpu_count":1,"ram_bytes":17179869184,"gpus":[],"cuda_present":false,"cuda_usable":false,"torch_version":null,"python":"","revision":null,"dirty":null,"free_disk_bytes":0,"version":"","contract":null,"models":null,"datasets":{},"problems":[]}','2026-01-01T00:00:00.000Z');
INSERT INTO "worker" VALUES('nas','{"hostname":"nas","os":"","os_version":"","arch":"","cpu_count":1,"ram_bytes":17179869184,"gpus":[],"cuda_present":false,"cuda_usable":false,"torch_version":null,"python":"","revision":null,"dirty":null,"free_disk_bytes":0,"version":"","contract":null,"models":null,"datasets":{},"problems":[]}','2026-01-01T00:00:00.000Z');
INSERT INTO "worker" VALUES('pi','{"hostname":"pi","os":"","os_version":"","arch":"","cpu_count":1,"ram_bytes":17179869184,"gpus":[],"cuda_present":false,"cuda_usable":false,"torch_version":null,"python":"","revision":null,"dirty":null,"free_disk_bytes":0,"version":"","contract":null,"models":null,"datasets":{},"problems":[]}','2026-01-01T00:00:00.000Z');
INSERT INTO "worker" VALUES('tower','{"hostname":"tower","os":"","os_version":"","arch":"","cpu_count":1,"ram_bytes":17179869184,"gpus":[],"cuda_present":false,"cuda_usable":false,"torch_version":null,"python":"","revision":null,"dirty":null,"free_disk_bytes":0,"version":"","contract":null,"models":null,"datasets":{},"problems":[]}','2026-01-01T00:00:00.000Z');
INSERT INTO "worker" VALUES('van','{"hostname":"van","os":"","os_version":"","arch":"","cpu_count":1,"ram_bytes":17179869184,"gpus":[],"cuda_present":false,"cuda_usable":false,"torch_version":null,"python":"","revision":null,"dirty":null,"free_disk_bytes":0,"version":"","contract":null,"models":null,"datasets":{},"problems":[]}','2026-01-01T00:00:00.000Z');
CREATE INDEX job_by_requirement ON job (requirement);
CREATE INDEX job_delayed ON job (seq) WHERE ready = 0;
CREATE INDEX job_by_status ON job (status);
CREATE INDEX job_leased ON job (host) WHERE lease_id IS NOT NULL;
CREATE INDEX job_failures ON job (failure) WHERE failure IS NOT NULL;
CREATE INDEX job_unnamed ON job (seq) WHERE named = 0;
CREATE TRIGGER job_completed_is_final BEFORE UPDATE OF status, artifact ON job
WHEN OLD.status = 'completed' AND (NEW.status IS NOT OLD.status OR NEW.artifact IS NOT OLD.artifact)
BEGIN
    SELECT RAISE(ABORT, 'a completed job is final');
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
CREATE UNIQUE INDEX identity_living ON identity (worker) WHERE revoked_at IS NULL;
CREATE TRIGGER job_ends_reopen_by_requeue_or_late_lease_only BEFORE UPDATE OF status ON job
WHEN OLD.status IN ('failed', 'cancelled') AND NEW.status NOT IN (OLD.status, 'pending')
AND NOT (
    OLD.status = 'failed' AND NEW.status IN ('running', 'completed')
    AND OLD.attempt = OLD.fence AND NEW.fence = OLD.fence
    AND EXISTS (
        SELECT 1 FROM attempt AS a
        WHERE a.job = OLD.seq AND a.fence = OLD.fence AND a.outcome IN ('expired', 'lost_claim')
    )
)
BEGIN
    SELECT RAISE(ABORT, 'a failed or cancelled job only becomes pending, or goes on under its newest lease');
END;
CREATE VIEW job_newest AS
SELECT
    j.*, a.claimed_at, a.ended_at, a.outcome, a.kind, a.exit_status, coalesce(e.text, '') AS error
FROM job AS j
LEFT JOIN attempt AS a ON a.job = j.seq AND a.fence = j.attempt
LEFT JOIN error AS e ON e.id = a.error_id;
CREATE INDEX job_by_artifact ON job (artifact) WHERE artifact IS NOT NULL;
CREATE INDEX job_claimable ON job (requirement, priority DESC, position)
WHERE status = 'pending' AND ready = 1 AND withdrawn = 0;
CREATE INDEX job_withdrawn ON job (seq) WHERE withdrawn = 1 AND status = 'pending';
CREATE INDEX job_by_name ON job (name) WHERE name IS NOT NULL;
CREATE INDEX manifest_by_digest ON manifest (digest);
CREATE INDEX event_by_job ON event (job, id) WHERE job IS NOT NULL;
CREATE TRIGGER event_never_changes BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;
COMMIT;
PRAGMA user_version = 5;
