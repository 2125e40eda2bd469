"""What a model reads: files collected into a context."""
