-- Which of the processes under a worker's name got the lease; NULL where the worker did not say.
ALTER TABLE attempt ADD COLUMN process TEXT;
