"""The auditor's statistics: whether a score still means what it meant, each a pure function of recorded outcomes.

`rules`, `eprocess`, `winners` and `information` import no numpy; what draws or fits does, so whoever must start light imports that late.
"""
