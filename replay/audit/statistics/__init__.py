"""The statistics of an audit, as functions of numbers: intervals, evidence, luck, pressure, exchange, cross-play,
change-points.
"""
