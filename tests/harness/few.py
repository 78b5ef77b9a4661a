"""Cases of one test of which `make test` runs a few, and `make test-slow` the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """The cases, for `parametrize`: all but the `quick` ones are slow; a tuple is the values of several arguments."""
    every = list(cases)
    assert all(case in every for case in quick), "a quick case that is none"
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.slow] * (case not in quick))
        for case in every
    ]
