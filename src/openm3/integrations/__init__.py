"""OpenM3's attention inside other libraries."""
