"""Products that torch has no operator for, or only a slow one."""
