"""A whole training run: simulated, on a cluster, or in a loop of one's own."""
