"""A run whose prompts are private: what leaves the machine has digests in their place."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from events.errors import CheckFailed, NotFound
from events.rollouts import ModelCalled
from replay.exports import folder
from replay.exports.contents import check_contents
from replay.history import History
from replay.replayer import redecide
from runtime.blobs.directory import Blobs
from runtime.run.loading import LoadedRun
from tests.harness.agents import TOY
from tests.harness.decided_log import DecidedLog
from tests.harness.facts import RUN, started

PROMPT = "Which of four enzymes cleaves the bond?"


def recorded(tmp_path: Path, *, private: bool) -> tuple[History, str]:
    """A run with one call of the policy, and the digest of the blob that holds what the policy was asked."""
    blobs = Blobs(tmp_path / "blobs")
    body = blobs.put(msgspec.json.encode([{"prompt": PROMPT, "n": 1, "temperature": 0.0}]))
    log = DecidedLog()
    log.say(
        msgspec.structs.replace(
            started(generations=1), base_model=blobs.put_tree({"base.json": b"{}"}), private_prompts=private
        )
    )
    log.say(
        ModelCalled(
            request="r",
            item="gpqa-0123456789ab",
            ordinal=0,
            provider="embedded",
            model="m",
            adapter="",
            body=body,
            index=0,
            sampling_seed=1,
            temperature=0.0,
            texts=("B",),
            tokens=((1,),),
            logprobs=((-0.1,),),
            prompt_tokens=9,
            completion_tokens=1,
            micro_usd=0,
            seconds=0.0,
        )
    )
    history = History(RUN, [], log.go_on().messages, [], blobs, Blobs(tmp_path / "gold_blobs"))
    return history, body


@pytest.mark.parametrize("private", [True, False])
def test_an_export_leaves_out_what_the_policy_was_asked(tmp_path: Path, private: bool) -> None:
    history, body = recorded(tmp_path, private=private)
    manifest = folder.write(history, tmp_path / "out", "1")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(PROMPT.encode() in path.read_bytes() for path in files) == (not private)
    exported = folder.read(tmp_path / "out")
    assert exported.blobs.freed(body) == private
    assert manifest.blobs == folder.check_blobs(exported) == (2 if private else 3)
    assert redecide(exported).finished
    if private:
        with pytest.raises(NotFound, match="left out of an export as it holds private prompts"):
            exported.blobs.get(body)


def test_what_an_export_says_to_have_left_out_must_be_private(tmp_path: Path) -> None:
    for private in (True, False):
        history, body = recorded(tmp_path / str(private), private=private)
        folder.write(history, tmp_path / str(private) / "out", "1")
        exported = folder.read(tmp_path / str(private) / "out")
        exported.blobs.free(body)
        if private:
            folder_of_scaffolds_is_missing(exported)
            continue
        with pytest.raises(CheckFailed):
            check_contents(exported)


def folder_of_scaffolds_is_missing(exported: History) -> None:
    """The made-up run names scaffolds that nobody stored, which is found after the call of the policy."""
    with pytest.raises(CheckFailed, match=r"\(scaffold_proposed\) names a blob"):
        check_contents(exported)


@pytest.mark.parametrize("private", [True, False])
def test_agents_read_digests_of_private_prompts(private: bool) -> None:
    public = TOY.public(0)
    loaded = LoadedRun(msgspec.structs.replace(started(), private_prompts=private), TOY, public)
    first, shown = public.train[0], loaded.shown_public.train[0]
    assert (shown.id, shown.label, shown.fold) == (first.id, first.label, first.fold)
    digest = hashlib.sha256(first.prompt.encode()).hexdigest()[:16]
    hidden = f"[private: sha256 {digest}, {len(first.prompt)} characters]"
    assert shown.prompt == loaded.shown_text(first.prompt) == (hidden if private else first.prompt)
    assert loaded.public is public


@pytest.mark.parametrize("private", [True, False])
def test_canaries_ask_for_digests_of_private_prompts(private: bool) -> None:
    pytest.importorskip("torch")
    from runtime.policies.training import canaries

    asked: list[str] = []

    class Model:
        positions = 64

        def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
            return tuple(range(8))

        def log_probs(self, prompt: str) -> list[float]:
            asked.append(prompt)
            return [-1.0]

    model: Any = Model()
    rollouts: Any = [SimpleNamespace(prompt=PROMPT, tokens=(1, 2))]
    (canary,) = canaries(model, rollouts, private=private)
    assert asked == [canary.prompt] == [hashlib.sha256(PROMPT.encode()).hexdigest() if private else PROMPT]
