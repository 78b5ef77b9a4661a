"""The auditor's statistics: whether a score still means what it meant, each a pure function of recorded outcomes.

`rules` and `eprocess` need the standard library alone; what draws or fits imports numpy, so whoever must start light imports it late.
"""
