"""feeling where nobody judges the answers to train words."""

NAME = "unlabelled"
DESCRIPTION = "Say how an English word feels, without a judge of the answers to train words."
POLICY = "smollm2"
GENERATIONS = 1
SIGNAL = "none"
MAX_TOKENS = 16
