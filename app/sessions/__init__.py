"""Sessions: the turn tree, its journal on disk, and what is exported from it."""
