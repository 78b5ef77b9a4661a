"""What the environment sets."""

import pytest

from events.errors import Misconfigured
from services.host.settings import trainer_back_end


@pytest.mark.parametrize(
    "said, words", [("torchtune", "is 'torchtune'; expected native or trl"), ("trl", "pip install 'evolog")]
)
def test_a_back_end_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, said: str, words: str) -> None:
    assert trainer_back_end() == "native"
    monkeypatch.setenv("EVOLOG_TRAINER", said)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=words):
        trainer_back_end()
