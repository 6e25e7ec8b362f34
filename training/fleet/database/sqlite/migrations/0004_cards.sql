-- The card that the lease names, as CUDA_VISIBLE_DEVICES takes it; NULL without one.
ALTER TABLE attempt ADD COLUMN card TEXT;
