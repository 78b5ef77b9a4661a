"""The task's name, what it asks, and what a run does by default."""

NAME = "TASK_NAME"
DESCRIPTION = "Pack a bag: say of each of six things whether it goes in, 1 or 0. The value of what fits is earned."
POLICY = "tiny-lm"
GENERATIONS = 2
MAX_TOKENS = 8
