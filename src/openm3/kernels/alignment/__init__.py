"""The alignment loss of the index branch on GPUs; `openm3.functional` has its definition."""
