"""The parts of a model that are ours: attention over pages, and a standard decoder with few operations."""
