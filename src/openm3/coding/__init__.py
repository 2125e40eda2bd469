"""Source files from users and models: their names, what analysers find in them, and files in an answer."""
