"""What updates of real shapes hold in memory, measured in a process of their own."""

import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="/proc")]

GIB = 2**10


def test_an_update_of_thousand_token_answers_of_half_a_billion_parameters_stays_under_8_gb() -> None:
    from tests.bench.updates import in_process

    found = in_process("half", "native")
    print(found)
    assert found["peak"] < 8e9 / 2**20


def test_512_answers_with_a_vocabulary_of_152_000_hold_less_than_2_gib_above_the_model() -> None:
    from tests.bench.updates import in_process

    found = in_process("many", "native")
    print(found)
    assert found["above"] < 2 * GIB
