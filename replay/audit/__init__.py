"""Whether a run's score still means anything: statistics of recorded outcomes, checks of the log, and what they come to."""
