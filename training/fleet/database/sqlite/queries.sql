-- Every statement of the queue, for SQLite. `connection.sql` has those on the connection, `checks.sql` those of `fsck`.
--
-- Each starts with "-- name: NAME"; the next line says what it is for, and a line "-- dialects:" why another dialect
-- will differ. The file of another dialect holds the same names.

---- what is remembered beside the jobs -------------------------------------------------------------------------------

-- name: remembered
-- One value of the receiver's own, by key.
SELECT value FROM meta WHERE key = :key;

-- name: remember
-- Sets one value of the receiver's own.
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: requirements
-- All distinct requirements with their keys.
SELECT id, digest, body FROM requirement ORDER BY id;

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
    WHERE j.requirement = r.id AND j.status = 'pending' AND j.ready = 1 AND j.withdrawn = 0
);

-- name: claimable
-- How many jobs with a requirement can be claimed now; counting stops at 64.
SELECT count(*) AS jobs FROM (
    SELECT 1 FROM job INDEXED BY job_claimable
    WHERE requirement = :requirement AND status = 'pending' AND ready = 1 AND withdrawn = 0 LIMIT 64
);

-- name: stranded
-- How many jobs with a requirement that no host can meet wait; counting stops at 1000.
SELECT count(*) AS jobs FROM (
    SELECT 1 FROM job INDEXED BY job_claimable
    WHERE requirement = :requirement AND status = 'pending' AND ready = 1 AND withdrawn = 0 LIMIT 1000
);

-- name: claimable_job
-- The requirement of a job, if it can be claimed now.
SELECT requirement FROM job WHERE seq = :seq AND status = 'pending' AND ready = 1 AND withdrawn = 0;

-- name: overdue
-- Those of these requirements whose best job became pending no later than `waited_since`.
SELECT j.requirement, j.seq FROM json_each(:requirements) AS e CROSS JOIN job AS j ON j.seq = (
    SELECT head.seq FROM job AS head INDEXED BY job_claimable
    WHERE head.requirement = e.value AND head.status = 'pending' AND head.ready = 1 AND head.withdrawn = 0
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

-- name: forget_host
-- Forgets what a worker could do.
DELETE FROM worker WHERE name = :name;

-- name: forget
-- Removes one value of the receiver's own.
DELETE FROM meta WHERE key = :key;

-- name: record
-- Appends one change to the history and answers its number.
INSERT INTO event (at, actor, job, action, from_status, to_status, why)
VALUES (:at, :actor, :job, :action, :from_status, :to_status, :why) RETURNING id;

-- name: newest_event
-- The number of the newest change.
SELECT max(id) AS number FROM event;

-- name: record_of_worker
-- Appends one event of a worker's identity.
INSERT INTO event (at, actor, worker, action, why) VALUES (:at, :actor, :worker, :action, :why);

---- identities ------------------------------------------------------------------------------------------------------

-- name: identities
-- Every identity there ever was.
SELECT id, worker, digest, next_digest, rotate, created_at, revoked_at, fingerprint, place
FROM identity ORDER BY worker, id;

-- name: identity
-- One identity by its public id.
SELECT id, worker, digest, next_digest, rotate, created_at, revoked_at, fingerprint, place
FROM identity WHERE id = :id;

-- name: living_identity
-- The identity that a worker has now.
SELECT id, worker, digest, next_digest, rotate, created_at, revoked_at, fingerprint, place
FROM identity WHERE worker = :worker AND revoked_at IS NULL;

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
-- Codes of a worker that nobody has used are good no more.
DELETE FROM invite WHERE worker = :worker AND identity IS NULL;

-- name: forget_invites
-- Codes of long ago.
DELETE FROM invite WHERE expires_tick < :tick;

---- the life of a job ------------------------------------------------------------------------------------------------

-- name: attempt_of_claim
-- The attempt a claim was answered with, to answer it again.
SELECT j.seq, j.id, j.spec, j.fence, j.timeout_s, j.status, j.lease_id, a.lease_id AS given, a.outcome,
    a.card
FROM attempt AS a JOIN job AS j ON j.seq = a.job
WHERE a.worker = :worker AND a.claim_id = :claim_id;

-- name: leases_of
-- The live leases of a worker: which of its processes got each, and which card each has.
SELECT j.seq, j.id, j.lease_id, j.status, a.process, a.card
FROM job AS j JOIN attempt AS a ON a.job = j.seq AND a.fence = j.attempt
WHERE j.host = :worker AND j.lease_id IS NOT NULL ORDER BY j.seq;

-- name: claim
-- Gives the best job that a caller can run; this is the one place that orders claims: priority, then the rank of the
-- requirement, then the place in the manifest. `free` and `waiting` are objects of rank by requirement; jobs of `waiting`
-- are given only when they became pending no later than `waited_since`. `avoid` lists jobs this host has just given back
-- or failed on. Only the head of each requirement is looked at, so a claim costs the same however many jobs wait.
-- dialects: PostgreSQL needs FOR UPDATE SKIP LOCKED on the head.
UPDATE job SET
    status = 'claimed', lease_id = :lease_id, host = :worker, fence = fence + 1, attempt = fence + 1,
    attempts_used = attempts_used + 1, updated_at = :at
WHERE seq = (
    SELECT head.seq
    FROM (
        SELECT offered.rank, offered.waits, (
            SELECT j.seq FROM job AS j INDEXED BY job_claimable
            WHERE j.requirement = offered.requirement AND j.status = 'pending' AND j.ready = 1 AND j.withdrawn = 0
            AND j.seq NOT IN (SELECT value FROM json_each(:avoid))
            ORDER BY j.priority DESC, j.position LIMIT 1
        ) AS seq
        FROM (
            SELECT CAST(key AS INTEGER) AS requirement, value AS rank, 0 AS waits FROM json_each(:free)
            UNION ALL
            SELECT CAST(key AS INTEGER), value, 1 FROM json_each(:waiting)
        ) AS offered
    ) AS best CROSS JOIN job AS head ON head.seq = best.seq
    WHERE best.waits = 0 OR head.pending_tick <= :waited_since
    ORDER BY head.priority DESC, best.rank, head.position
    LIMIT 1
)
RETURNING seq, id, spec, fence, timeout_s, requirement;

-- name: begin_attempt
-- Writes down who got which lease of a job.
INSERT INTO attempt (job, fence, lease_id, worker, claim_id, process, card, claimed_at)
VALUES (:job, :fence, :lease_id, :worker, :claim_id, :process, :card, :at);

-- name: lease
-- A lease, live or over, with its job.
SELECT
    j.seq, j.id, j.model, j.mode, j.status, j.lease_id, j.fence, j.attempts_used, j.max_attempts, j.refunds,
    j.cancel_requested, j.requirement, j.over_vram_gib, j.over_ram_gib, j.artifact, j.failure, j.withdrawn,
    a.fence AS attempt_fence, a.lease_id AS own_lease, a.worker, a.outcome, a.refunded, a.ended_at,
    a.card
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
SELECT seq, id, status, lease_id, cancel_requested, requirement, withdrawn, model, mode, artifact FROM job WHERE id = :id;

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
AND EXISTS (
    SELECT 1 FROM artifact AS a
    WHERE a.sha256 = :artifact AND a.model = job.model AND a.mode = job.mode AND a.gone IS NULL
);

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
-- Gives a job that failed or was cancelled a new budget; every older lease is out for good. It is
-- offered whatever the manifest names, because that is what was asked for.
UPDATE job SET
    status = 'pending', withdrawn = 0, fence = fence + 1, attempts_used = 0, refunds = 0, ready = 1, pending_tick = :tick,
    requirement = :requirement, over_vram_gib = 0, over_ram_gib = 0, updated_at = :at
WHERE seq = :seq AND status IN ('failed', 'cancelled');

-- name: offer_again
-- A withdrawn job is offered again although the manifest does not name it.
UPDATE job SET withdrawn = 0, updated_at = :at WHERE seq = :seq AND status = 'pending' AND withdrawn = 1;

-- name: make_ready
-- A back-off is over.
UPDATE job SET ready = 1 WHERE seq = :seq AND status = 'pending' AND ready = 0 RETURNING requirement, withdrawn;

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

-- name: bring_artifact_back
-- Notes that the files of an artifact that was gone are here again.
UPDATE artifact SET gone = NULL, gone_at = NULL, files_left = 0, size_bytes = :size_bytes, stored_at = :at
WHERE sha256 = :sha256 AND model = :model AND mode = :mode AND gone IS NOT NULL;

-- name: lose_artifact
-- Notes that the file of an artifact is missing.
UPDATE artifact SET gone = 'lost', gone_at = :at
WHERE sha256 = :sha256 AND model = :model AND mode = :mode AND gone IS NULL;

-- name: lose_attempt
-- Takes its result from the completed attempt of a job whose artifact is lost.
UPDATE attempt SET outcome = 'released', error_id = :error_id
WHERE job = :job AND outcome = 'completed';

-- name: requeue_lost
-- Gives a completed job whose artifact is lost a new budget; its old result and every older lease are out for good.
UPDATE job SET
    status = 'pending', fence = fence + 1, attempts_used = 0, refunds = 0, ready = 1, pending_tick = :tick,
    requirement = :requirement, over_vram_gib = 0, over_ram_gib = 0, artifact = NULL, metrics = '{}',
    content_digest = NULL, duration_s = NULL, updated_at = :at
WHERE seq = :seq AND status = 'completed';

-- name: prune_artifact
-- Notes that an artifact is pruned, before its files are removed.
UPDATE artifact SET gone = 'pruned', gone_at = :at, files_left = 1 WHERE seq = :seq AND gone IS NULL;

-- name: files_removed
-- Notes that the files of a pruned artifact are removed.
UPDATE artifact SET files_left = 0 WHERE seq = :seq AND files_left = 1;

-- name: files_left
-- Pruned artifacts whose files are not removed yet.
SELECT seq, sha256, model, mode, size_bytes, stored_at, gone, gone_at FROM artifact
WHERE files_left = 1 ORDER BY seq;

-- name: drop_log
-- Removes the end of the log of a job.
DELETE FROM log WHERE job = :job;

-- name: results
-- A window of artifacts whose files are here, each with the jobs whose result it is; one row without a job for one
-- that is the result of none.
-- dialects: SQLite takes the window before the join, so that no artifact is cut apart.
SELECT
    a.seq, a.sha256, a.model, a.mode, a.stored_at,
    a.size_bytes + (SELECT coalesce(sum(p.size_bytes), 0) FROM part AS p WHERE p.artifact = a.seq) AS size_bytes,
    j.seq AS job, j.id, j.spec, j.named, j.name, j.metrics, n.ended_at
FROM (SELECT * FROM artifact WHERE seq > :after AND gone IS NULL ORDER BY seq LIMIT :limit) AS a
LEFT JOIN job AS j ON j.artifact = a.sha256 AND j.model = a.model AND j.mode = a.mode
LEFT JOIN attempt AS n ON n.job = j.seq AND n.fence = j.attempt
ORDER BY a.seq, j.seq;

-- name: correct_length
-- Makes a row say how long its artifact is, whose file hashes to its name.
UPDATE artifact SET size_bytes = :size_bytes WHERE sha256 = :sha256 AND model = :model AND mode = :mode;

-- name: artifacts
-- Stored artifacts in the order they came.
SELECT seq, sha256, model, mode, size_bytes, stored_at, gone, gone_at FROM artifact
WHERE seq > :after ORDER BY seq LIMIT :limit;

-- name: add_part
-- Notes a small file of a stored artifact, as long as all of them together stay within the limits; a second time, or
-- beyond them, changes nothing.
INSERT INTO part (artifact, name, size_bytes, sha256)
SELECT a.seq, :name, :size_bytes, :part_sha256 FROM artifact AS a
WHERE a.sha256 = :sha256 AND a.model = :model AND a.mode = :mode
AND (SELECT count(*) FROM part AS p WHERE p.artifact = a.seq) < :most
AND (SELECT coalesce(sum(p.size_bytes), 0) FROM part AS p WHERE p.artifact = a.seq) + :size_bytes <= :most_bytes
ON CONFLICT (artifact, name) DO NOTHING;

-- name: parts
-- The small files of one artifact, by name.
SELECT p.name, p.size_bytes, p.sha256 FROM artifact AS a JOIN part AS p ON p.artifact = a.seq
WHERE a.sha256 = :sha256 AND a.model = :model AND a.mode = :mode ORDER BY p.name;

-- name: artifact_rows
-- The rows of one digest.
SELECT model, mode, size_bytes, gone, gone_at FROM artifact WHERE sha256 = :sha256;

-- name: artifact_totals
-- How many artifacts are here and how long they are together.
SELECT count(*) AS artifacts, coalesce(sum(size_bytes), 0) AS size_bytes FROM artifact WHERE gone IS NULL;

---- lists ------------------------------------------------------------------------------------------------------------

-- name: jobs_by_seq
-- A window of jobs in the order they came, filtered.
-- dialects: an absent filter is NULL.
SELECT
    seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, named, status, ready,
    attempts_used, lease_id, host, cancel_requested, artifact, metrics, duration_s, updated_at, claimed_at, ended_at,
    outcome, kind, exit_status, error, withdrawn, name, tags
FROM job_newest
WHERE seq > :after AND seq <= :upto
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
AND (:withdrawn OR withdrawn = 0 OR status <> 'pending')
AND (:since IS NULL OR updated_at >= :since) AND (:until IS NULL OR updated_at < :until)
ORDER BY seq LIMIT :limit;

-- name: jobs_by_status
-- A window of the jobs of one status, in the order they came, filtered.
SELECT
    seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, named, status, ready,
    attempts_used, lease_id, host, cancel_requested, artifact, metrics, duration_s, updated_at, claimed_at, ended_at,
    outcome, kind, exit_status, error, withdrawn, name, tags
FROM job_newest
WHERE status = :status AND seq > :after AND seq <= :upto
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
AND (:withdrawn OR withdrawn = 0 OR status <> 'pending')
AND (:since IS NULL OR updated_at >= :since) AND (:until IS NULL OR updated_at < :until)
ORDER BY seq LIMIT :limit;

-- name: jobs_by_id
-- Jobs whose id starts alike, by id, filtered.
SELECT
    seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, named, status, ready,
    attempts_used, lease_id, host, cancel_requested, artifact, metrics, duration_s, updated_at, claimed_at, ended_at,
    outcome, kind, exit_status, error, withdrawn, name, tags
FROM job_newest
WHERE id > :after AND id >= :low AND id < :high
AND (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
AND (:model IS NULL OR model = :model) AND (:mode IS NULL OR mode = :mode) AND (:host IS NULL OR host = :host)
AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag))
AND (:withdrawn OR withdrawn = 0 OR status <> 'pending')
AND (:since IS NULL OR updated_at >= :since) AND (:until IS NULL OR updated_at < :until)
ORDER BY id LIMIT :limit;

-- name: jobs_by_name
-- The jobs of a name: those that the manifest in force names first, and the newer one first among equals.
SELECT
    seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, named, status, ready,
    attempts_used, lease_id, host, cancel_requested, artifact, metrics, duration_s, updated_at, claimed_at, ended_at,
    outcome, kind, exit_status, error, withdrawn, name, tags
FROM job_newest
WHERE name = :name
ORDER BY named DESC, seq DESC LIMIT :limit;

-- name: count_withdrawn
-- How many pending jobs nobody is offered, because the manifest no longer names them.
-- dialects: SQLite reads the partial index alone.
SELECT count(*) AS jobs FROM job INDEXED BY job_withdrawn WHERE withdrawn = 1 AND status = 'pending';

-- name: known_tags
-- The tags of all jobs, each once.
-- dialects: SQLite takes a JSON list apart with json_each; nearly all jobs have no tags and are not taken apart.
SELECT DISTINCT tag.value AS value FROM job, json_each(job.tags) AS tag WHERE job.tags <> '[]' ORDER BY tag.value;

-- name: newest_seq
-- The number of the newest job, none in an empty queue.
SELECT max(seq) AS number FROM job;

-- name: job
-- One job with its newest attempt.
SELECT
    seq, id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, named, status, ready,
    attempts_used, lease_id, host, cancel_requested, artifact, metrics, duration_s, updated_at, claimed_at, ended_at,
    outcome, kind, exit_status, error, withdrawn, name, tags
FROM job_newest
WHERE id = :id;

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
SELECT e.id, e.at, e.actor, e.action, j.id AS job, e.worker, e.from_status, e.to_status, e.why, j.model, j.mode
FROM event AS e LEFT JOIN job AS j ON j.seq = e.job
WHERE e.id < :before AND e.id >= :from_id
AND (:worker IS NULL OR e.worker = :worker OR e.actor = 'worker:' || :worker)
AND (:since IS NULL OR e.at >= :since) AND (:until IS NULL OR e.at < :until)
ORDER BY e.id DESC LIMIT :limit;

-- name: event_time
-- When the first event from a number on was written.
SELECT at AS value FROM event WHERE id >= :from_id ORDER BY id LIMIT 1;

-- name: events_of_job
-- A window of the events of one job, newest first.
SELECT e.id, e.at, e.actor, e.action, j.id AS job, e.worker, e.from_status, e.to_status, e.why, j.model, j.mode
FROM event AS e JOIN job AS j ON j.seq = e.job
WHERE e.job = :job AND e.id < :before
AND (:worker IS NULL OR e.actor = 'worker:' || :worker)
AND (:since IS NULL OR e.at >= :since) AND (:until IS NULL OR e.at < :until)
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
    j.max_attempts, j.attempts_used, j.named, j.name, j.tags
FROM json_each(:ids) AS e CROSS JOIN job AS j ON j.id = e.value;

-- name: add_job
-- A new job; the database gives it the next number.
INSERT INTO job (id, spec, model, mode, requirement, priority, position, timeout_s, max_attempts, name, tags,
    pending_tick, updated_at)
VALUES (:id, :spec, :model, :mode, :requirement, :priority, :position, :timeout_s, :max_attempts, :name, :tags,
    :tick, :at);

-- name: record_added
-- Appends the first event of each of these new jobs, in their order.
INSERT INTO event (at, actor, job, action, to_status)
SELECT :at, :actor, j.seq, 'add', 'pending' FROM json_each(:ids) AS e CROSS JOIN job AS j ON j.id = e.value ORDER BY e.key;

-- name: change_job
-- New terms for a job; one whose budget shrinks below what it used ends or goes on with what is left.
UPDATE job SET
    requirement = :requirement, priority = :priority, position = :position, timeout_s = :timeout_s,
    max_attempts = :max_attempts, attempts_used = min(attempts_used, :max_attempts), named = 1, withdrawn = 0,
    name = :name, tags = :tags,
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
-- The manifest no longer names the job; unless it is kept, nobody is offered it from now on.
UPDATE job SET named = 0, withdrawn = :withdrawn, updated_at = :at WHERE seq = :seq;

-- name: keep_manifest_text
-- Keeps the text of a manifest, once.
INSERT INTO manifest_text (digest, body) VALUES (:digest, :body) ON CONFLICT (digest) DO NOTHING;

-- name: keep_manifest
-- Notes that a manifest came in force.
INSERT INTO manifest (digest, at, actor, how, jobs) VALUES (:digest, :at, :actor, :how, :jobs);

-- name: forget_manifests
-- Takes out all but the newest manifests.
DELETE FROM manifest WHERE id <= (SELECT max(id) FROM manifest) - :keep;

-- name: forget_manifest_texts
-- Takes out the texts that no manifest in the list has.
DELETE FROM manifest_text WHERE NOT EXISTS (SELECT 1 FROM manifest AS m WHERE m.digest = manifest_text.digest);

-- name: manifests
-- The manifests that came in force, newest first.
SELECT id, digest, at, actor, how, jobs FROM manifest ORDER BY id DESC;

-- name: manifest_text
-- The text of one manifest.
SELECT body FROM manifest_text WHERE digest = :digest;

-- name: record_of_manifest
-- Appends the event of a manifest that came in force.
INSERT INTO event (at, actor, action, why) VALUES (:at, :actor, 'apply', :why);
