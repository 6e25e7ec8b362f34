-- Small files that were uploaded with an artifact: its card, figures and metrics. They go with their artifact.
CREATE TABLE part (
    artifact INTEGER NOT NULL REFERENCES artifact (seq) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> '' AND name NOT GLOB '*[^0-9A-Za-z_.-]*' AND name NOT GLOB '[-.]*'),
    size_bytes INTEGER NOT NULL CHECK (size_bytes BETWEEN 0 AND 2097152),
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64 AND sha256 NOT GLOB '*[^0-9a-f]*'),
    PRIMARY KEY (artifact, name)
) STRICT;

-- Which jobs an artifact is the result of is asked for each download.
CREATE INDEX job_by_artifact ON job (artifact) WHERE artifact IS NOT NULL;

-- Which of the processes under a worker's name got the lease; NULL where the worker did not say.
ALTER TABLE attempt ADD COLUMN process TEXT;

-- The card that the lease names, as CUDA_VISIBLE_DEVICES takes it; NULL without one.
ALTER TABLE attempt ADD COLUMN card TEXT;
