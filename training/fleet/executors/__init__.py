"""Where trainers run: `local` starts them on this machine; engines of sites come beside it."""
