"""The archive: the log projected into DuckDB tables, made anew, queried, and copied in part for an agent."""
