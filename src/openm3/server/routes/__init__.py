"""One router for each endpoint family."""
