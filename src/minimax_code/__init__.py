"""Agents that work on repositories. Importing it does nothing; its parts come with the issue CODE."""
