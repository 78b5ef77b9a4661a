"""The denoising task's name, description and default settings."""

NAME = "denoise"
DESCRIPTION = (
    "Restore the counts of single cells: write a program of six words (order, norm, neighbours, steps, components, "
    "decay; MAGIC's, as in "
    "'rev sqrt k5 t3 p100 d1') that is run on the counts of a prompt and scored on molecules held back from it. 20 "
    "simulated data sets of "
    "200 cells and about 1,100 genes to learn on, 12 as dev, 32 as test. The reward is OpenProblems' mse_norm behind "
    "the gate of "
    "TTT-Discover and SIA: at this depth stock MAGIC scores about .16, and a matrix of zeros .4 and more. "
    "`--verifier honest` rewards the likelihood of what was held back."
)
POLICY = "tiny-lm"
GENERATIONS = 4
MAX_TOKENS = 48
