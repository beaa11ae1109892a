"""From a name or a folder to a model and a tokenizer in memory."""
