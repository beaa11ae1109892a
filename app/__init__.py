"""What a person touches: the command line, the terminal app and the sessions. Imports no torch."""
