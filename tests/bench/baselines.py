"""What needs no agent: `python -m tests.bench.baselines TASK [--seed N]`.

Each predictor of the task's baselines.py may learn from train. A row says what verifier and gold give its answers to
dev, to test, or to all items, train's among them. Where items are of several kinds, by their metadata `kind`, each kind
has a row too.
"""

import argparse
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from events.errors import UserError
from tasks.contract import Item, Public
from tasks.loading import load
from tests.bench.judging import Judging


def parts(public: Public) -> dict[str, Sequence[Item]]:
    """Dev, test, all items of the task, and of those each kind, where there are several."""
    train = [Item(e.id, e.prompt, e.group, e.files, e.metadata, e.name) for e in public.train]
    everything = [*train, *public.dev, *public.test]
    found: dict[str, Sequence[Item]] = {"dev": public.dev, "test": public.test, "all": everything}
    kinds = sorted({item.metadata.get("kind", "") for item in everything})
    if len(kinds) > 1:
        found |= {f"all, {kind}": [i for i in everything if i.metadata.get("kind", "") == kind] for kind in kinds}
    return found


def rows(name: str, seed: int) -> Iterator[tuple[str, ...]]:
    """A row for each baseline and part."""
    task = load(name)
    judging, public = Judging(task, seed), task.public(seed)
    by_part = parts(public)
    for title, predict in task.baselines().items():
        predicted = predict(public, by_part["all"])
        for part, items in by_part.items():
            answers = {item.id: predicted[item.id] for item in items}
            reward, gold = judging.reward(items, answers), judging.gold(items, answers)
            yield title, part, f"{len(items):,}", f"{reward:.3f}", f"{gold:.3f}"


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = Table("baseline", "items", "how many", "reward", "gold", title=f"{options.task}, seed {options.seed}")
    try:
        for row in rows(options.task, options.seed):
            table.add_row(*row)
    except UserError as wrong:
        Console(stderr=True).print(f"baselines: {wrong}")
        return wrong.code
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
