"""Data installed with mull and read through importlib.resources; no code."""
