"""Requests and responses of each endpoint family, with the field names of the OpenAI API."""
