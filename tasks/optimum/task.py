"""The optimisation task's name, description and default settings."""

NAME = "optimum"
DESCRIPTION = (
    "Find a low value of a hidden function: write a search program of five words (method, step size, population, "
    "cooling, restarts, as in 'walk s3 n8 c1 r1') that is run on the function with 150 evaluations. The prompt names "
    "the function's kind and its dimension. The reward is how much lower the program gets than random search with the "
    "same budget, in the function's own units: it has no upper limit, and no answer is right. There are no labels."
)
POLICY = "tiny-lm"
GENERATIONS = 3
MAX_TOKENS = 32
SOLVED = None
SHARED_PROMPTS = "A prompt names a kind of function, and each item has a function of its own, which no prompt gives."
