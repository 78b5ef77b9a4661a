"""What the environment sets."""

import pytest

from events.errors import Misconfigured
from services.host.settings import start_attempts, trainer_back_end


@pytest.mark.parametrize(
    "said, words", [("torchtune", "is 'torchtune'; expected native or trl"), ("trl", "pip install 'evolog")]
)
def test_a_back_end_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, said: str, words: str) -> None:
    assert trainer_back_end() == "native"
    monkeypatch.setenv("EVOLOG_TRAINER", said)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=words):
        trainer_back_end()


def test_how_often_the_start_is_asked_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_attempts() == 16
    monkeypatch.setenv("EVOLOG_START_ATTEMPTS", "0")
    assert start_attempts() == 0
    for wrong in ("-1", "1.5", "often", "", "²"):
        monkeypatch.setenv("EVOLOG_START_ATTEMPTS", wrong)
        with pytest.raises(Misconfigured, match="expected a whole number of attempts, such as 16, or 0 for none"):
            start_attempts()
