"""Several engines behind one server."""
