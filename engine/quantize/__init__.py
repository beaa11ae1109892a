"""Making quantized checkpoints, and telling how near they come to the original."""
