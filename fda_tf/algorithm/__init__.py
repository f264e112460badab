"""The choices that make a method: when, how and what is averaged."""
