"""The reasoning task's name, description and default settings."""

NAME = "reasoning"
DESCRIPTION = (
    "Answer short problems of three of reasoning-gym's generators: chain_sum (sums and differences of digits), gcd "
    "(the greatest common divisor of two numbers up to 30) and number_sorting (three or four digits, whose "
    "answer is a Python list of strings). The reward is the package's own score_answer: 1 for the answer, and a part "
    "of it for some texts that hold the answer."
)
POLICY = "tiny-lm"
GENERATIONS = 5
MAX_TOKENS = 24
