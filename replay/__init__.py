"""Reads recorded runs back from the log: the archive in SQL, replays, comparisons, statistics."""
