"""What a log shows once it is read back: the archive in SQL, replays, comparisons, statistics."""
