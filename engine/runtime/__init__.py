"""The local backend: pages, sequences, the runner and the sampler."""
