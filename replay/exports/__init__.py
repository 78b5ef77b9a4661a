"""A recorded run as files: an export to be replayed elsewhere, and tables as Parquet."""
