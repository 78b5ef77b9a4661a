"""Files outside the log, named by the SHA-256 of their bytes: scaffolds, adapters, request bodies."""
