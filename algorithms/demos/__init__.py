"""Demonstrations: each learning algorithm on a toy, with a learning curve.

Run one as `python -m algorithms.learning.NAME`.
"""
