"""Baselines that a run is compared with: programs that need no agent."""

from collections.abc import Callable, Sequence

from tasks.contract import Item, Public

STOCK = {
    "random search": "rand s0 n4 c0 r1",
    "(1 + 1)-ES, the rule of a fifth": "walk s2 n8 c1 r1",
    "differential evolution of 16 points": "mix s5 n16 c2 r1",
}


def _always(program: str) -> Callable[[Public, Sequence[Item]], dict[str, str]]:
    def predict(public: Public, items: Sequence[Item]) -> dict[str, str]:
        return {item.id: program for item in items}

    return predict


BASELINES = {name: _always(program) for name, program in STOCK.items()}
"""What the auditor scores in addition to a run, by the name that its table shows."""
