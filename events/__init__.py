"""The events of the log: facts by family, their names and subjects, and their bytes."""
