"""From results to pictures, and to a page of them; see `__main__`."""
