"""The statistics of an audit, as functions of numbers: means with intervals, slopes, luck, exchange, cross-play."""
