"""Plays a scaffold's files in the sandbox, against a policy that is a function."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtime.rollouts.host import AttemptOutcome, ScaffoldCall, ScaffoldData, ScaffoldProcess


def play(
    folder: Path,
    files: Mapping[str, str],
    prompts: Sequence[str],
    says: Callable[[ScaffoldCall], str],
    data: ScaffoldData | None = None,
) -> tuple[list[AttemptOutcome], list[str]]:
    """What the scaffold answers to each prompt, in one attempt each, and the prompts that it asks the policy."""
    for path, text in files.items():
        (folder / "scaffold" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "scaffold" / path).write_text(text)
    asked: list[str] = []

    def answer(asks: list[ScaffoldCall]) -> list[list[str]]:
        asked.extend(ask.prompt for ask in asks)
        return [[says(ask)] for ask in asks]

    process = ScaffoldProcess(folder / "scaffold", data or ScaffoldData([], []), folder / "work")
    try:
        return process.solve([(f"item{number}", prompt) for number, prompt in enumerate(prompts)], 1, answer), asked
    finally:
        process.close()
