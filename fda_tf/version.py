"""The version of fda_tf."""

__version__ = "0.1.0"
