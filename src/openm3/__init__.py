"""OpenM3: sparse attention, the M3 model, and an engine for long contexts. Importing it does nothing."""

__version__ = "0.1.0"
