-- Every statement the fleet runs, for SQLite.
--
-- Each starts with "-- name: NAME"; the next line says what it is for, and a line "-- dialects:" why another dialect
-- will differ. The file of another dialect holds the same names, the section on the connection aside.

---- the connection (this dialect only) -------------------------------------------------------------------------------

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
-- Foreign keys are not enforced while tables are made anew.
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

---- what is remembered beside the jobs -------------------------------------------------------------------------------

-- name: remembered
-- One value of the receiver's own, by key.
SELECT value FROM meta WHERE key = :key;

-- name: remember
-- Sets one value of the receiver's own.
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: requirements
-- All distinct requirements.
SELECT id, body FROM requirement ORDER BY id;

-- name: add_requirement
-- Gives a requirement its row, or finds it.
INSERT INTO requirement (digest, body) VALUES (:digest, :body)
ON CONFLICT (digest) DO UPDATE SET body = excluded.body RETURNING id;

-- name: requirements_with_ready_jobs
-- Which requirements have a job to give away now.
-- dialects: SQLite answers each row with one seek of the partial index.
SELECT r.id FROM requirement AS r
WHERE EXISTS (
    SELECT 1 FROM job AS j INDEXED BY job_claimable
    WHERE j.requirement = r.id AND j.status = 'pending' AND j.ready = 1
);

-- name: claimable
-- How many jobs with a requirement can be claimed now; counting stops at 64.
SELECT count(*) AS jobs FROM (
    SELECT 1 FROM job INDEXED BY job_claimable
    WHERE requirement = :requirement AND status = 'pending' AND ready = 1 LIMIT 64
);

-- name: claimable_job
-- The requirement of a job, if it can be claimed now.
SELECT requirement FROM job WHERE seq = :seq AND status = 'pending' AND ready = 1;

-- name: overdue
-- Those of these requirements whose best job became pending no later than `waited_since`.
SELECT j.requirement, j.seq FROM json_each(:requirements) AS e CROSS JOIN job AS j ON j.seq = (
    SELECT head.seq FROM job AS head INDEXED BY job_claimable
    WHERE head.requirement = e.value AND head.status = 'pending' AND head.ready = 1
    ORDER BY head.priority DESC, head.position LIMIT 1
)
WHERE j.pending_tick <= :waited_since;

-- name: hosts_met
-- Every worker that ever called, with what it could do then.
SELECT name, capability, seen_at FROM worker ORDER BY name;

-- name: meet_host
-- Keeps what a worker can do, for the time after a restart.
INSERT INTO worker (name, capability, seen_at) VALUES (:name, :capability, :at)
ON CONFLICT (name) DO UPDATE SET capability = excluded.capability, seen_at = excluded.seen_at;

-- name: record
-- Appends one change to the history.
INSERT INTO event (at, actor, job, action, from_status, to_status, why)
VALUES (:at, :actor, :job, :action, :from_status, :to_status, :why);

-- name: newest_event
-- The number of the newest change.
SELECT max(id) AS id FROM event;

-- name: record_of_worker
-- Appends one event of a worker's identity.
INSERT INTO event (at, actor, worker, action, why) VALUES (:at, :actor, :worker, :action, :why);

---- identities ------------------------------------------------------------------------------------------------------

-- name: identities
-- Every identity there ever was.
SELECT id, worker, digest, next_digest, rotate, created_at, revoked_at, fingerprint, place
FROM identity ORDER BY worker, id;

-- name: add_identity
-- A worker has enrolled.
INSERT INTO identity (id, worker, digest, created_at) VALUES (:id, :worker, :digest, :at);

-- name: change_identity
-- What became of an identity.
UPDATE identity SET
    digest = :digest, next_digest = :next_digest, rotate = :rotate, revoked_at = :revoked_at,
    fingerprint = :fingerprint, place = :place
WHERE id = :id;

-- name: add_invite
-- An operator lets a host enrol.
INSERT INTO invite (digest, worker, created_at, expires_at, expires_tick)
VALUES (:digest, :worker, :at, :expires_at, :expires_tick);

-- name: invite
-- An invite by the digest of its code.
SELECT worker, expires_at, expires_tick, identity FROM invite WHERE digest = :digest;

-- name: use_invite
-- The code was exchanged; only once.
UPDATE invite SET identity = :identity WHERE digest = :digest AND identity IS NULL;

-- name: withdraw_invites
-- Codes of a worker that nobody has used are void.
DELETE FROM invite WHERE worker = :worker AND identity IS NULL;

-- name: forget_invites
-- Codes of long ago.
DELETE FROM invite WHERE expires_tick < :tick;

---- the life of a job ------------------------------------------------------------------------------------------------

-- name: attempt_of_claim
-- The attempt a claim was answered with, to answer it again.
SELECT j.seq, j.id, j.spec, j.fence, j.timeout_s, j.status, j.lease_id, a.lease_id AS given, a.outcome
FROM attempt AS a JOIN job AS j ON j.seq = a.job
WHERE a.worker = :worker AND a.claim_id = :claim_id;

-- name: leases_of
-- The live leases of a worker.
SELECT seq, id, lease_id, status FROM job WHERE host = :worker AND lease_id IS NOT NULL ORDER BY seq;

-- name: claim
-- Gives the best head among the requirements a caller can meet. They come in claim order: those from index `second` on
-- rank behind those before it, those from `third` on behind both, and those from `waiting` on are given only when they
-- became pending no later than `waited_since`. `avoid` lists jobs this host has just given back or failed on.
-- dialects: PostgreSQL needs FOR UPDATE SKIP LOCKED on the head.
UPDATE job SET
    status = 'claimed', lease_id = :lease_id, host = :worker, fence = fence + 1, attempt = fence + 1,
    attempts_used = attempts_used + 1, updated_at = :at
WHERE seq = (
    SELECT head.seq
    FROM (
        SELECT e.key AS place, (
            SELECT j.seq FROM job AS j INDEXED BY job_claimable
            WHERE j.requirement = e.value AND j.status = 'pending' AND j.ready = 1
            AND j.seq NOT IN (SELECT value FROM json_each(:avoid))
            ORDER BY j.priority DESC, j.position LIMIT 1
        ) AS seq
        FROM json_each(:eligible) AS e
    ) AS best CROSS JOIN job AS head ON head.seq = best.seq
    WHERE best.place < :waiting OR head.pending_tick <= :waited_since
    ORDER BY head.priority DESC, (best.place >= :second) + (best.place >= :third), head.position
    LIMIT 1
)
RETURNING seq, id, spec, fence, timeout_s, requirement;

-- name: begin_attempt
-- Writes down who got which lease of a job.
INSERT INTO attempt (job, fence, lease_id, worker, claim_id, claimed_at)
VALUES (:job, :fence, :lease_id, :worker, :claim_id, :at);

-- name: lease
-- A lease, live or over, with its job.
SELECT
    j.seq, j.id, j.model, j.mode, j.status, j.lease_id, j.fence, j.attempts_used, j.max_attempts, j.refunds,
    j.cancel_requested, j.requirement, j.over_vram_gib, j.over_ram_gib, j.artifact, j.failure,
    a.fence AS attempt_fence, a.lease_id AS own_lease, a.worker, a.outcome, a.refunded, a.ended_at
FROM attempt AS a JOIN job AS j ON j.seq = a.job
WHERE a.lease_id = :lease_id;

-- name: rejections
-- Which hosts have rejected a job's specification, and how often, since its last requeue, which leaves out a fence.
-- Those that the host alone was to blame for are released, not failed.
SELECT a.worker, count(*) AS times FROM attempt AS a
WHERE a.job = :job AND a.kind = 'spec_rejected' AND a.outcome = 'failed' AND a.fence >= (
    SELECT max(b.fence) FROM attempt AS b
    WHERE b.job = :job AND NOT EXISTS (SELECT 1 FROM attempt AS c WHERE c.job = :job AND c.fence = b.fence - 1)
)
GROUP BY a.worker;

-- name: job_state
-- Where a job stands.
SELECT seq, id, status, lease_id, cancel_requested, requirement FROM job WHERE id = :id;

-- name: start
-- The first heartbeat came.
UPDATE job SET status = 'running', updated_at = :at WHERE seq = :seq AND status = 'claimed' AND lease_id = :lease_id;

-- name: start_attempt
-- Notes when the first heartbeat came.
UPDATE attempt SET started_at = :at WHERE job = :job AND fence = :fence;

-- name: adopt
-- Gives a lease that ran out back to its worker, because nobody else has begun. A reload may have made the budget
-- smaller since, so that an attempt which was given back finds no room in it.
UPDATE job SET
    status = 'running', lease_id = :lease_id, ready = 1, updated_at = :at, failure = NULL,
    attempts_used = min(max_attempts, attempts_used + :refunded), refunds = refunds - :refunded
WHERE seq = :seq AND status IN ('pending', 'failed') AND fence = :fence;

-- name: adopt_attempt
-- The attempt lives again.
UPDATE attempt SET
    outcome = NULL, ended_at = NULL, refunded = 0, kind = NULL, exit_status = NULL, error_id = NULL,
    started_at = coalesce(started_at, :at)
WHERE job = :job AND fence = :fence;

-- name: complete
-- Accepts the one result of a job, whose artifact must be stored.
UPDATE job SET
    status = 'completed', lease_id = NULL, ready = 1, cancel_requested = 0, failure = NULL, artifact = :artifact,
    metrics = :metrics, content_digest = :content_digest, duration_s = :duration_s, updated_at = :at,
    attempts_used = min(max_attempts, attempts_used + :refunded), refunds = refunds - :refunded
WHERE seq = :seq AND status IN ('claimed', 'running', 'pending', 'failed') AND fence = :fence
AND EXISTS (SELECT 1 FROM artifact AS a WHERE a.sha256 = :artifact AND a.model = job.model AND a.mode = job.mode);

-- name: end_attempt
-- Notes how an attempt ended.
UPDATE attempt SET
    ended_at = :at, outcome = :outcome, refunded = :refunded, kind = :kind, exit_status = :exit_status,
    error_id = :error_id
WHERE job = :job AND fence = :fence;

-- name: keep_error
-- Gives the words of a failure their row, or finds it.
INSERT INTO error (text) VALUES (:text) ON CONFLICT (text) DO UPDATE SET text = excluded.text RETURNING id;

-- name: settle
-- Takes the lease from a job without a result.
UPDATE job SET
    status = :status, lease_id = NULL, cancel_requested = 0, ready = :ready, pending_tick = :tick,
    attempts_used = attempts_used - :given_back, refunds = refunds + :refunded, failure = :failure,
    requirement = :requirement, over_vram_gib = :over_vram_gib, over_ram_gib = :over_ram_gib, updated_at = :at
WHERE seq = :seq AND lease_id = :lease_id;

-- name: keep_log
-- Keeps the end of the log of a job's newest failed attempt.
INSERT INTO log (job, tail) VALUES (:job, :tail) ON CONFLICT (job) DO UPDATE SET tail = excluded.tail;

-- name: cancel
-- Ends a job that waits.
UPDATE job SET status = 'cancelled', ready = 1, updated_at = :at WHERE seq = :seq AND status = 'pending';

-- name: request_cancel
-- Asks for the end of a job that a worker holds.
UPDATE job SET cancel_requested = 1, updated_at = :at WHERE seq = :seq AND status IN ('claimed', 'running');

-- name: requeue
-- Gives a job that failed or was cancelled a new budget; every older lease is out for good.
UPDATE job SET
    status = 'pending', fence = fence + 1, attempts_used = 0, refunds = 0, ready = 1, pending_tick = :tick,
    requirement = :requirement, over_vram_gib = 0, over_ram_gib = 0, updated_at = :at
WHERE seq = :seq AND status IN ('failed', 'cancelled');

-- name: make_ready
-- A back-off is over.
UPDATE job SET ready = 1 WHERE seq = :seq AND status = 'pending' AND ready = 0 RETURNING requirement;

---- after a start ----------------------------------------------------------------------------------------------------

-- name: make_all_ready
-- Back-offs do not outlive the receiver.
UPDATE job SET ready = 1 WHERE ready = 0;

-- name: live_leases
-- Every lease that a worker may hold.
SELECT j.seq, j.id, j.lease_id, j.host, j.status, j.cancel_requested
FROM job AS j WHERE j.status IN ('claimed', 'running') ORDER BY j.seq;

-- name: counts
-- Jobs by status.
-- dialects: SQLite reads the small index on status alone.
SELECT status, count(*) AS jobs FROM job INDEXED BY job_by_status GROUP BY status;

---- artifacts --------------------------------------------------------------------------------------------------------

-- name: add_artifact
-- Notes a stored artifact; a second time changes nothing.
INSERT INTO artifact (sha256, model, mode, size_bytes, stored_at)
VALUES (:sha256, :model, :mode, :size_bytes, :at) ON CONFLICT (sha256, model, mode) DO NOTHING;

-- name: correct_length
-- Makes a row say how long its artifact is, whose file hashes to its name.
UPDATE artifact SET size_bytes = :size_bytes WHERE sha256 = :sha256 AND model = :model AND mode = :mode;

-- name: artifacts
-- Stored artifacts in the order they came.
SELECT seq, sha256, model, mode, size_bytes, stored_at FROM artifact WHERE seq > :after ORDER BY seq LIMIT :limit;

-- name: artifact_totals
-- How many artifacts there are and how long they are together.
SELECT count(*) AS artifacts, coalesce(sum(size_bytes), 0) AS size_bytes FROM artifact;

---- lists ------------------------------------------------------------------------------------------------------------

-- name: jobs_by_seq
-- A window of jobs in the order they came, filtered.
-- dialects: an absent filter is NULL.
SELECT * FROM job_newest
WHERE seq > :after AND seq <= :upto
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
ORDER BY seq LIMIT :limit;

-- name: jobs_by_status
-- A window of the jobs of one status, in the order they came, filtered.
SELECT * FROM job_newest
WHERE status = :status AND seq > :after AND seq <= :upto
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
ORDER BY seq LIMIT :limit;

-- name: jobs_by_id
-- Jobs whose id starts alike, by id, filtered.
SELECT * FROM job_newest
WHERE id > :after AND id >= :low AND id < :high
AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
ORDER BY id LIMIT :limit;

-- name: newest_seq
-- The number of the newest job, none in an empty queue.
SELECT max(seq) AS seq FROM job;

-- name: job
-- One job with its newest attempt.
SELECT * FROM job_newest WHERE id = :id;

-- name: attempts
-- The newest attempts of a job, newest first.
SELECT
    a.fence, a.worker, a.claimed_at, a.started_at, a.ended_at, a.outcome, a.kind, a.exit_status,
    coalesce(e.text, '') AS error
FROM attempt AS a LEFT JOIN error AS e ON e.id = a.error_id
WHERE a.job = :job ORDER BY a.fence DESC LIMIT :limit;

-- name: history_length
-- How many attempts and changes a job has had.
SELECT
    (SELECT count(*) FROM attempt WHERE job = :job) AS attempts,
    (SELECT count(*) FROM event WHERE job = :job) AS events;

-- name: events
-- The newest changes of a job, newest first.
SELECT id, at, actor, action, from_status, to_status, why FROM event WHERE job = :job ORDER BY id DESC LIMIT :limit;

-- name: events_between
-- A window of all events, newest first, filtered.
-- dialects: an absent filter is NULL.
SELECT e.id, e.at, e.actor, e.action, j.id AS job, e.worker, e.from_status, e.to_status, e.why
FROM event AS e LEFT JOIN job AS j ON j.seq = e.job
WHERE e.id < :before AND e.id >= :from_id
AND (:worker IS NULL OR e.worker = :worker OR e.actor = 'worker:' || :worker)
ORDER BY e.id DESC LIMIT :limit;

-- name: events_of_job
-- A window of the events of one job, newest first.
SELECT e.id, e.at, e.actor, e.action, :id AS job, e.worker, e.from_status, e.to_status, e.why
FROM event AS e
WHERE e.job = :job AND e.id < :before
AND (:worker IS NULL OR e.actor = 'worker:' || :worker)
ORDER BY e.id DESC LIMIT :limit;

-- name: log
-- The end of the log of a job's newest failed attempt.
SELECT tail FROM log WHERE job = :job;

-- name: recent_failures
-- The newest bad ends of jobs that are not completed since. The attempt is looked for, because one that was given back
-- may have followed it.
SELECT
    j.id, j.model, j.mode, j.status, a.worker AS host, a.ended_at, a.outcome, a.kind, a.exit_status,
    coalesce(e.text, '') AS error
FROM job AS j
JOIN attempt AS a ON a.job = j.seq AND a.fence = (
    SELECT max(b.fence) FROM attempt AS b WHERE b.job = j.seq AND b.outcome IN ('failed', 'expired', 'lost_claim')
)
LEFT JOIN error AS e ON e.id = a.error_id
WHERE j.failure IS NOT NULL ORDER BY j.failure DESC LIMIT :limit;

---- the manifest -----------------------------------------------------------------------------------------------------

-- name: jobs_named
-- Which of these ids are in the queue, and on what terms.
SELECT
    j.seq, j.id, j.model, j.mode, j.status, j.requirement, j.over_vram_gib, j.over_ram_gib, j.priority, j.position, j.timeout_s,
    j.max_attempts, j.attempts_used, j.named
FROM json_each(:ids) AS e CROSS JOIN job AS j ON j.id = e.value;

-- name: add_job
-- A new job.
INSERT INTO job (seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, pending_tick,
    updated_at)
VALUES (:seq, :id, :spec, :model, :mode, :requirement, :priority, :position, :timeout_s, :max_attempts, :tick, :at);

-- name: change_job
-- New terms for a job; one whose budget shrinks below what it used ends or goes on with what is left.
UPDATE job SET
    requirement = :requirement, priority = :priority, position = :position, timeout_s = :timeout_s,
    max_attempts = :max_attempts, attempts_used = min(attempts_used, :max_attempts), named = 1,
    status = :status, ready = max(ready, :status <> 'pending'), updated_at = :at
WHERE seq = :seq;

-- name: count_unnamed
-- How many jobs the manifest in force does not name.
SELECT count(*) AS jobs FROM job WHERE named = 0;

-- name: jobs_in_force
-- A window of the jobs that the manifest in force names.
SELECT seq, id, model, mode, status FROM job WHERE seq > :after AND named = 1 ORDER BY seq LIMIT :limit;

-- name: jobs_numbered
-- Those of these jobs that the manifest in force names.
SELECT j.seq, j.status FROM json_each(:seqs) AS e CROSS JOIN job AS j ON j.seq = e.value WHERE j.named = 1;

-- name: unused_requirements
-- Those of these requirements that no job has.
SELECT e.value AS id FROM json_each(:requirements) AS e
WHERE NOT EXISTS (SELECT 1 FROM job AS j WHERE j.requirement = e.value);

-- name: drop_requirement
-- Takes a requirement out that no job has.
DELETE FROM requirement WHERE id = :id;

-- name: drop_job
-- The manifest no longer names the job; it stays until it is cancelled.
UPDATE job SET named = 0, updated_at = :at WHERE seq = :seq;


---- what must hold between rows ---------------------------------------------------------------------------------------
-- Each answers the rows that break a rule which no constraint of a single table can state.

-- name: check_wholly
-- Looks for damage of every kind SQLite knows, rules of single rows included; one row "ok" when there is none.
PRAGMA integrity_check(100);

-- name: specs
-- A window of jobs with what their identity is made of.
SELECT seq, id, spec, model, mode FROM job WHERE seq > :after ORDER BY seq LIMIT :limit;

-- name: job_ids_of_artifact
-- The jobs whose result an artifact is.
SELECT id FROM job WHERE artifact = :sha256 AND model = :model AND mode = :mode ORDER BY seq;

-- name: artifact_rows
-- The rows of one digest.
SELECT model, mode, size_bytes FROM artifact WHERE sha256 = :sha256;

-- name: broken_leases
-- Live jobs whose lease is not that of their newest attempt, or whose newest attempt has ended.
SELECT j.id, 'job ' || j.status || ', attempt ' || coalesce(a.outcome, CASE WHEN a.job IS NULL THEN 'missing' ELSE
    'of another lease or host' END) AS found
FROM job AS j LEFT JOIN attempt AS a ON a.job = j.seq AND a.fence = j.attempt
WHERE j.status IN ('claimed', 'running')
AND (a.lease_id IS NOT j.lease_id OR a.worker IS NOT j.host OR a.outcome IS NOT NULL);

-- name: open_attempts
-- Attempts that have not ended although their job has no lease or another one.
SELECT j.id, 'attempt ' || a.fence || ' of ' || a.worker || ' has not ended, job ' || j.status AS found
FROM attempt AS a JOIN job AS j ON j.seq = a.job
WHERE a.outcome IS NULL AND a.lease_id IS NOT j.lease_id;

-- name: broken_results
-- Completed jobs without exactly one completed attempt, their newest one; and completed attempts of other jobs.
SELECT j.id, 'job ' || j.status || ', completed attempts ' || count(a.fence) AS found
FROM job AS j LEFT JOIN attempt AS a ON a.job = j.seq AND a.outcome = 'completed'
GROUP BY j.seq
HAVING count(a.fence) <> (j.status = 'completed') OR (j.status = 'completed' AND max(a.fence) IS NOT j.attempt);

-- name: broken_fences
-- Jobs whose newest attempt is not the newest row of theirs, or is beyond their fence.
SELECT j.id, 'attempt ' || j.attempt || ', newest row ' || coalesce(max(a.fence), 0) || ', fence ' || j.fence AS found
FROM job AS j LEFT JOIN attempt AS a ON a.job = j.seq
GROUP BY j.seq HAVING j.attempt <> coalesce(max(a.fence), 0) OR coalesce(max(a.fence), 0) > j.fence;

-- name: broken_refunds
-- Jobs that were given back more lost claims than allowed.
SELECT id, refunds || ' refunds' AS found FROM job WHERE refunds > :refunds;

-- name: broken_history
-- Jobs whose newest event ends in another status, or that have none.
SELECT j.id, 'job ' || j.status || ', newest event ' || coalesce(e.to_status, 'missing') AS found
FROM job AS j LEFT JOIN event AS e ON e.id = (SELECT max(n.id) FROM event AS n WHERE n.job = j.seq)
WHERE e.to_status IS NOT j.status;

-- name: broken_chains
-- Events that do not begin where the one before of the same job ended.
SELECT j.id, e.action || ' from ' || coalesce(e.from_status, 'nothing') || ' after ' || coalesce(e.before, 'nothing')
    AS found
FROM (
    SELECT id, job, action, from_status, lag(to_status) OVER (PARTITION BY job ORDER BY id) AS before FROM event
) AS e JOIN job AS j ON j.seq = e.job
WHERE e.from_status IS NOT e.before;

-- name: results_without_artifact
-- Completed jobs whose artifact has no row.
SELECT j.id, 'no row of artifact ' || j.artifact AS found FROM job AS j
WHERE j.status = 'completed' AND NOT EXISTS (
    SELECT 1 FROM artifact AS a WHERE a.sha256 = j.artifact AND a.model = j.model AND a.mode = j.mode
);

-- name: requirement_rows
-- All requirements with their keys.
SELECT id, digest, body FROM requirement ORDER BY id;
