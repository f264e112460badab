"""The K workers: simulated in one process, or one in each."""
