"""GPQA's name, description and default settings."""

NAME = "gpqa"
DESCRIPTION = (
    "Answer a graduate-level question of biology, chemistry or physics by the letter of one of four options, A to D: "
    "the 198 questions of GPQA Diamond. Whatever is no single letter counts as wrong, and so does no answer. One "
    "letter for all questions earns .29 at most. The questions are not to be shown in plain text."
)
POLICY = "text-scorer"
GENERATIONS = 3
MAX_TOKENS = 16
PRIVATE_PROMPTS = True
"""GPQA's owners ask that no item be shown in plain text."""
