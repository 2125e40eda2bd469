"""Training: the data, the alignment of an index branch, and reports of what it does."""
