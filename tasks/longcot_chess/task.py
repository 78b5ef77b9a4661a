"""LongCoT chess: name, description and default settings."""

NAME = "longcot-chess"
DESCRIPTION = (
    "Solve one of 50 chess problems. In 39 of them a knight on a board of 100x100 squares must touch 30 squares: the "
    "answer is the least number of moves, as `solution = 218`. In 11, a position is given in FEN: the answer is its "
    "best line of three moves in SAN, as `solution = [c4, bxc4, bxc4]`. An exact answer earns 1, and anything else "
    "nothing."
)
POLICY = "tiny-lm"
GENERATIONS = 3
MAX_TOKENS = 32
