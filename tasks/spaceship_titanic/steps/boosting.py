"""Adds the log-odds of gradient boosting on the records of train (scikit-learn, 100 trees of depth 3)."""

from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from . import records

SCALE = 4.0
"""What the log-odds are multiplied by: the model's own scores are larger than they are worth."""
MISSING = -1.0
"""What stands for a number that is not recorded."""
_fitted: list[GradientBoostingClassifier] = []


def fit(data: Any) -> None:
    """Fit the classifier, which every attempt then finds."""
    model = GradientBoostingClassifier(random_state=0)
    taken = [example.label == "True" for example in data.train]
    _fitted[:] = [model.fit(_rows([example.prompt for example in data.train]), taken)]


def odds(item: Any, data: Any) -> float:
    """The log-odds of True, scaled."""
    return SCALE * float(_fitted[0].decision_function(_rows([item.prompt]))[0])


def _rows(prompts: list[str]) -> np.ndarray:
    rows: np.ndarray = np.nan_to_num(records.matrix(prompts), nan=MISSING)
    return rows
