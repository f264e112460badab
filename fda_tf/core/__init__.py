"""The loop of the paper, and what it stands on."""
