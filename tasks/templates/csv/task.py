"""The task's name, what it asks, and what a run does by default."""

NAME = "TASK_NAME"
DESCRIPTION = "Send a customer's message to one of four desks: account, billing, delivery or repair."
POLICY = "text-scorer"
GENERATIONS = 2
