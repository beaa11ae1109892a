"""What runs a model. Imports nothing of the app."""
