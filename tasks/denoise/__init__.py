"""Denoise: restore the counts of single cells, scored as OpenProblems scores it, with all that shows what that score is
worth.
"""
