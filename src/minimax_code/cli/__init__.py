"""The `minimax-code` command."""
