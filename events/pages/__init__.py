"""Makes the files beside the events that describe them, from their structs and docstrings: the catalogue in README.md,
schema.json and asyncapi.json. No service imports it.
"""
