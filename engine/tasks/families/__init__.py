"""The problem families by theme; each generator takes a random.Random and returns a Problem."""
