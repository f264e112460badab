"""Flat vectors of a model's variables, and loops in graphs."""
