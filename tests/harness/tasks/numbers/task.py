"""A task whose answers are written, and whose rewards are graded."""

NAME = "numbers"
DESCRIPTION = "Find the two numbers that belong to a task; an answer earns 1 less its distance over 75."
POLICY = "tiny-lm"
GENERATIONS = 1
SHARED_PROMPTS = "The task is to find two numbers by trying, and what is learned on train must hold on dev."
