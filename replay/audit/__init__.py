"""What a finished or a running log says of the scores on it: statistics and provenance."""
