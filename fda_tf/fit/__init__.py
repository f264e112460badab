"""`model.fit` on many workers, by one callback."""
