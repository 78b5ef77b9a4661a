"""The task's name, what it asks, and what a run does by default."""

NAME = "TASK_NAME"
DESCRIPTION = "Write an expression in x that does what two words ask for, such as `x * 3 + 2` for `times 3 plus 2`."
POLICY = "tiny-lm"
GENERATIONS = 2
MAX_TOKENS = 16
