"""The smallest task that uses both levers."""

NAME = "tiny"
DESCRIPTION = "Which way does a signpost point?"
POLICY = "text-scorer"
GENERATIONS = 3
