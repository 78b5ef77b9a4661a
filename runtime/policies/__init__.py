"""Policies: their interface, the embedded ones, clients and servers, and their training."""
