"""Whether a run's score still means anything, computed from what is recorded: figures of each candidate, findings, and
a verdict.

audit        the entry: `audit` over events, `audit_history` over a recorded run, and the result `Audit`
pair         a scaffold with an adapter, by digest
candidates   what is recorded of a run's candidates and of their scores, as one value that the rest computes from
rows         each candidate's score, gold and gap, with intervals
growth, cross_play, levers, robustness, references    figures and findings, family by family
provenance/  checks of the log that need no statistics; known: what they compare the log with
verdict      from findings to green, suspect or drift
statistics/  the tests and intervals, as functions of numbers
"""
