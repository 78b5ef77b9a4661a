"""The strategies by the name that `--strategy` and `run_started` call them by."""

from collections.abc import Mapping

from algorithms.search import best_of_k, chain, dgm
from algorithms.search.strategy import Strategy

STRATEGIES: Mapping[str, Strategy] = {
    "chain": Strategy(chain.select, chain.judge),
    "dgm": Strategy(dgm.select, dgm.judge),
    "best_of_k": Strategy(best_of_k.select, best_of_k.judge),
}
