"""Strategies: how candidates are chosen and accepted. There is one, SIA's chain of the best so far."""
