"""Experiments with fda_tf: the command line, its tasks and its results."""
