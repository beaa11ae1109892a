"""The models on this machine, by their configurations and headers alone. Knows no torch."""
