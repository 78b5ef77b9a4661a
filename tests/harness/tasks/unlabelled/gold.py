"""feeling's gold for test words."""

from tasks.feeling.gold import labels, score

__all__ = ["labels", "score"]
