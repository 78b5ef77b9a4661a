"""The name, description and default settings of feeling."""

NAME = "feeling"
DESCRIPTION = (
    "Say how an English word feels: terrible, bad, good or wonderful, as ten people rated it on average. 2,552 words "
    "of different stems out of VADER's lexicon. A language model that was trained before knows most of them; always "
    "saying 'bad' is right for .42 of the words, and character n-grams that are fitted to train for no more."
)
POLICY = "smollm2"
GENERATIONS = 5
MAX_TOKENS = 16
