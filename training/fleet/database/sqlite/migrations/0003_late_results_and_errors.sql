-- A job whose last lease ran out has failed only because nobody was heard: its worker may still bring the result, as
-- long as no requeue and no newer attempt came between. The outcome is the old one here: attempts change after their job.
DROP TRIGGER job_ends_reopen_by_requeue_only;

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

-- The words of failures, each once, however many attempts ended with them.
CREATE TABLE error (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

INSERT INTO error (text) SELECT error FROM attempt WHERE error <> '' GROUP BY error ORDER BY min(job), min(fence);

ALTER TABLE attempt ADD COLUMN error_id INTEGER REFERENCES error (id);

UPDATE attempt SET error_id = (SELECT e.id FROM error AS e WHERE e.text = attempt.error) WHERE error <> '';

DROP VIEW job_newest;

ALTER TABLE attempt DROP COLUMN error;

CREATE VIEW job_newest AS
SELECT
    j.*, a.claimed_at, a.ended_at, a.outcome, a.kind, a.exit_status, coalesce(e.text, '') AS error
FROM job AS j
LEFT JOIN attempt AS a ON a.job = j.seq AND a.fence = j.attempt
LEFT JOIN error AS e ON e.id = a.error_id;
