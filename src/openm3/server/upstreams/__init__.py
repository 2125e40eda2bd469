"""Other servers that answer for this one: any with the OpenAI API."""
