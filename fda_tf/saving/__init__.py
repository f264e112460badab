"""A run on disk: what is saved, when, and what it goes on from."""
