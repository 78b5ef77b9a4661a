"""A reward that asks what denoising is for: how likely the output makes the molecules that were held out."""

from tasks.contract import Scored
from tasks.denoise import held_out

VERSION = "likelihood-1"


def score(answer: str | None, label: str) -> Scored:
    """Poisson skill at each cell's library size: 1 for the true expression, 0 for no denoising and worse, and for what
    is no program.
    """
    try:
        judged = held_out.judged(answer or "", label)
    except ValueError:
        return Scored(0.0, "unparsed")
    reward = min(1.0, max(0.0, judged.skill))
    return Scored(reward, "right" if reward > 0 else "wrong")
