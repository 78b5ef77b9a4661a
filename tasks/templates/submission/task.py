"""The task's name, what it asks, and what a run does by default."""

NAME = "TASK_NAME"
DESCRIPTION = (
    "Send each of many messages to one of four desks: account, billing, delivery or repair. All answers together are "
    "one submission, whose score is the mean recall of the desks."
)
POLICY = "text-scorer"
GENERATIONS = 2
SOLVED = 0.01
"""A right answer to a message of a common desk earns less than 1."""
