"""The uniform policy over labels: every label scores 0, so that all a scaffold earns with it is due to the scaffold."""

from collections.abc import Sequence

import numpy as np

from runtime.policies import closed_vocabulary
from runtime.policies.closed_vocabulary import Vector
from runtime.policies.interface import Sampled, SampleRequest


class Uniform:
    """Answers with one of the labels on offer, by their biases alone; at temperature 0 with one of the highest, drawn
    evenly.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = {label: token for token, label in enumerate(labels)}

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""
        return [
            closed_vocabulary.complete(self._labels, self._score, request, closed_vocabulary.any_best)
            for request in requests
        ]

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (labels,) of each label, which is the same for all."""
        return closed_vocabulary.log_softmax(self._score(prompt)).tolist()

    def _score(self, prompt: str) -> Vector:
        return np.zeros(len(self._labels))
