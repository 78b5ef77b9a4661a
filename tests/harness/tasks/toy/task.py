"""A small stand-in for a real task, made up on the spot."""

NAME = "toy"
DESCRIPTION = "Which of eight trades does a sentence of made-up words belong to?"
POLICY = "text-scorer"
GENERATIONS = 2
