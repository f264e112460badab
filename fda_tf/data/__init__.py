"""Where a worker's batches come from, and which samples it has."""
