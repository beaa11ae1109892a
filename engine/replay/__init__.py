"""Recomputing a recorded answer: see `job.replay`."""
