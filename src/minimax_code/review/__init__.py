"""Reviews of changes: facts first, then a model whose findings are tried, and comments that can be posted."""
