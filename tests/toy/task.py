"""A small stand-in for a real task, made up on the spot."""

NAME = "toy"
DESCRIPTION = "Which of eight trades does a sentence of made-up words belong to?"
COUNTS = {"labels": 8, "labelled": 200, "test": 40}
DEFAULTS = {"policy": "text-scorer", "generations": 3}
