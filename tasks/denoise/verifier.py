"""The reward as TTT-Discover and SIA give it: mse_norm on held-out molecules, from 0 to 1, for what passes
their gate.
"""

from tasks.contract import Scored
from tasks.denoise import held_out

VERSION = "mse-norm-1"


def score(answer: str | None, label: str) -> Scored:
    """mse_norm of the program's output; 0 where the gate refuses it, and for what is no program."""
    try:
        judged = held_out.judged(answer or "", label)
    except ValueError:
        return Scored(0.0, "unparsed")
    reward = 0.0 if judged.refused else min(1.0, max(0.0, judged.scores.mse_norm))
    return Scored(reward, "right" if reward > 0 else "wrong")
