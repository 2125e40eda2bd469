"""Keys, plans, and the books of what was used."""
