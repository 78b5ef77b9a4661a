"""Checks of a run's log that need no statistics, and find nothing in an honest run.

They look for hidden items that were shown or trained on, another verifier or adapter than is recorded, rewards out of
range, and scaffolds that touch the checks.
"""
