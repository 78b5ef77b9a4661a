"""Passengers' records as numbers."""

import math
from collections.abc import Sequence

import numpy as np

PLANETS = ("Earth", "Europa", "Mars")
DESTINATIONS = ("55 Cancri e", "PSO J318.5-22", "TRAPPIST-1e")
DECKS = ("A", "B", "C", "D", "E", "F", "G", "T")
SPENDING = ("RoomService", "FoodCourt", "ShoppingMall", "Spa", "VRDeck")


def fields(prompt: str) -> dict[str, str]:
    """A record's values by column, whatever their order; empty where nothing is recorded."""
    found = dict.fromkeys((*SPENDING, "HomePlanet", "CryoSleep", "Cabin", "Destination", "Age", "VIP", "GroupSize"), "")
    for line in prompt.split("\n"):
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found


def numbers(prompt: str) -> list[float]:
    """A record as numbers, NaN where nothing is recorded."""
    record = fields(prompt)
    deck, _, rest = record["Cabin"].partition("/")
    number, _, side = rest.partition("/")
    spent = [_number(record[name]) for name in SPENDING]
    return [
        _place(record["HomePlanet"], PLANETS),
        _place(record["Destination"], DESTINATIONS),
        _place(record["CryoSleep"], ("False", "True")),
        _place(record["VIP"], ("False", "True")),
        _place(deck, DECKS),
        _place(side, ("P", "S")),
        _number(number),
        _number(record["Age"]),
        _number(record["GroupSize"]),
        *spent,
        sum(value for value in spent if not math.isnan(value)),
    ]


def matrix(prompts: Sequence[str]) -> np.ndarray:
    """Records as rows of numbers, (records, columns)."""
    return np.array([numbers(prompt) for prompt in prompts])


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _place(text: str, names: Sequence[str]) -> float:
    return float(names.index(text)) if text in names else math.nan
