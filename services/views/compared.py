"""The comparison of two runs as text, for `evolog diff`."""

import json

from replay.compare import RunComparison
from services.host.visible import one_line


def comparison_lines(comparison: RunComparison) -> list[str]:
    """The comparison for people."""
    if comparison.same:
        return [
            f"{comparison.first} and {comparison.second} are the same in configuration, decisions, scaffolds and "
            "scores."
        ]
    lines = [f"--- {comparison.first}", f"+++ {comparison.second}"]
    if comparison.config:
        lines += ["configuration:"]
        for key, (first, second) in comparison.config.items():
            lines += [f"  {key}: {_short(first)} | {_short(second)}"]
    if comparison.parting:
        parting = comparison.parting
        lines += [f"decisions: the first {parting.place:,} are the same, then"]
        lines += [
            f"  - {_sequence_prefix(parting.first_sequence)}{parting.first}",
            f"  + {_sequence_prefix(parting.second_sequence)}{parting.second}",
        ]
    if comparison.generations:
        lines += ["generations:"]
        for number, fields in comparison.generations.items():
            lines += [
                f"  {number}: "
                + "; ".join(f"{key} {_short(first)} | {_short(second)}" for key, (first, second) in fields.items())
            ]
    if comparison.scores:
        lines += ["the auditor's scores:"]
        lines += [
            f"  {cell}: {_number(first)} | {_number(second)}" for cell, (first, second) in comparison.scores.items()
        ]
    for number, text in comparison.scaffolds.items():
        lines += [f"scaffold of generation {number}:", text.rstrip("\n")]
    return lines


def _short(value: object) -> str:
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 100 else f"{text[:97]}..."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _sequence_prefix(sequence: int | None) -> str:
    return "" if sequence is None else f"sequence {sequence}: "
