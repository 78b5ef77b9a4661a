"""Whether a run's scores can be what they are called: checks of its log that need no statistics, and find nothing in an honest run."""
