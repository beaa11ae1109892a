"""The parts of a model that are ours: attention over pages."""
