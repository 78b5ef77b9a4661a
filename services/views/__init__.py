"""Runs and audits as text, tables, HTML and pictures, for a person."""
