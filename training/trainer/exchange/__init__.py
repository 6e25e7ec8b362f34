"""What a worker and a run tell each other by files: the job, the progress, the wish to stop, the checkpoints."""
