"""Baselines that a run is compared with: programs that need no agent."""

from collections.abc import Callable, Sequence

from tasks.contract import Item, Public

STOCK = {
    "MAGIC as OpenProblems runs it, reversed order": "rev sqrt k5 t3 p100 d1",
    "MAGIC without the square root, standard order": "std lin k5 t3 p100 d1",
    "MAGIC in reversed order, rounded: a matrix of zeros": "rev sqrt k5 t3 p100 d1 round0",
}


def _always(program: str) -> Callable[[Public, Sequence[Item]], dict[str, str]]:
    def predict(public: Public, items: Sequence[Item]) -> dict[str, str]:
        return {item.id: program for item in items}

    return predict


BASELINES = {name: _always(program) for name, program in STOCK.items()}
"""What the auditor scores in addition to a run, by the name that its table shows."""
