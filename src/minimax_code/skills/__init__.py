"""What is asked of a model about code, each answer with receipts. It knows no HTTP client."""
