"""Base models are kept, and made again where what was kept is damaged."""

from pathlib import Path

import msgspec
import pytest

from events.errors import CheckFailed, Misconfigured
from runtime.policies import text_scorer
from runtime.policies.bases import prepare_base
from tasks.loading import load
from tests.harness.paths import TOY


@pytest.mark.parametrize("file", ["base.safetensors", "base.json"])
def test_a_base_model_that_was_cut_short_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    public = load(str(TOY)).public(0)
    folder = prepare_base(text_scorer.KIND, public, list)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckFailed, match=r"is damaged .* build it again"):
        text_scorer.load_base(folder)
    assert prepare_base(text_scorer.KIND, public, list) == folder
    assert (folder / file).read_bytes() == whole


def test_a_policy_that_picks_labels_is_refused_where_there_are_none() -> None:
    public = msgspec.structs.replace(load(str(TOY)).public(0), labels=())
    with pytest.raises(
        Misconfigured, match=r"text-scorer picks one of a task's labels, and toy has none; take tiny-lm"
    ):
        prepare_base(text_scorer.KIND, public, list)
