"""Search: which candidate is changed next, and what becomes of what comes of it. One file a strategy."""
