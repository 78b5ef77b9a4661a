"""Policies: what every one offers, the embedded ones, and their endpoint."""
