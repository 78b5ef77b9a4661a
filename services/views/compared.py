"""The comparison of two runs as text, for `evolog diff`."""

import json
import re
from collections.abc import Mapping
from typing import Any

from replay.compare import DivergentDecision, RunComparison, differing_fields
from services.host.visible import one_line, shortened

SHOWN = 100
"""Characters of a value that are shown; --json has all of it."""


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
        for key, pair in comparison.config.items():
            lines += _field_lines(differing_fields(*pair, key), "  ")
    if comparison.parting:
        lines += _parting_lines(comparison.parting)
    if comparison.generations:
        lines += ["generations:"]
        for number, fields in comparison.generations.items():
            lines += [f"  generation {number}:", *_field_lines(fields, "    ")]
    if comparison.scores:
        lines += ["the auditor's scores:"]
        lines += [
            f"  {cell}: {_number(first)} | {_number(second)}" for cell, (first, second) in comparison.scores.items()
        ]
    for number, text in comparison.scaffolds.items():
        lines += [f"scaffold of generation {number}:", text.rstrip("\n")]
    return lines


def _parting_lines(parting: DivergentDecision) -> list[str]:
    """The first decision that differs: its fields that do, or which facts the two decided in its place."""
    same = (
        "decisions: from the first on,"
        if not parting.place
        else f"decisions: the first {parting.place:,} are the same, then"
    )
    if not parting.tag:
        return [
            same,
            f"  - {_sequence_prefix(parting.first_sequence)}{_what(parting.first)}",
            f"  + {_sequence_prefix(parting.second_sequence)}{_what(parting.second)}",
        ]
    generation = "" if parting.generation is None else f" of generation {parting.generation}"
    return [
        f"{same} {parting.tag}{generation} differs, at sequence {parting.first_sequence} | {parting.second_sequence}:",
        *_field_lines(parting.fields, "  "),
    ]


def _field_lines(fields: Mapping[str, tuple[Any, Any]], indent: str) -> list[str]:
    return [f"{indent}{key}: {_short(first)} | {_short(second)}" for key, (first, second) in fields.items()]


def _what(fact: str) -> str:
    """A fact in words: its type, and the generation that it is about."""
    tag, _, text = fact.partition(" {")
    generation = re.search(r'"generation": (\d+)', text)
    return fact if not text else f"{tag} of generation {generation[1]}" if generation else tag


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return shortened(text, SHOWN)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _sequence_prefix(sequence: int | None) -> str:
    return "" if sequence is None else f"sequence {sequence}: "
