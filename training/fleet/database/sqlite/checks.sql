-- What `fsck` reads, for SQLite. A rule answers the rows that break what no constraint of a single table can state.

-- name: check_wholly
-- Looks for damage of every kind SQLite knows, rules of single rows included; one row "ok" when there is none.
PRAGMA integrity_check(100);

-- name: specs
-- A window of jobs with what their identity is made of.
SELECT seq, id, spec, model, mode FROM job WHERE seq > :after ORDER BY seq LIMIT :limit;

-- name: job_ids_of_artifact
-- The jobs whose result an artifact is.
SELECT id FROM job WHERE artifact = :sha256 AND model = :model AND mode = :mode ORDER BY seq;

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
