"""The task's name, what it asks, and what a run does by default."""

NAME = "TASK_NAME"
DESCRIPTION = "Say how much water and feed a plot needs, two digits from 0 to 9: the nearer, the more it earns."
POLICY = "tiny-lm"
GENERATIONS = 2
MAX_TOKENS = 8
