"""README.md, schema.json and asyncapi.json of events are what the code says, and what the code says is complete."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from events import codec, docstrings, kinds
from events.catalogue import BY_TAG, CONSUMERS, ENTRIES
from events.codec import Envelope, Unreadable
from events.pages import __main__ as program
from events.pages import asyncapi, json_schema
from replay.exports import folder
from tests.harness.facts import event_of, example
from tests.harness.import_graph import import_graph
from tests.harness.json_schema import errors
from tests.harness.paths import HISTORIES

SCHEMA: dict[str, Any] = json.loads((program.FOLDER / "schema.json").read_text())
ASYNCAPI: dict[str, Any] = json.loads((program.FOLDER / "asyncapi.json").read_text())
README = (program.FOLDER / "README.md").read_text()
STRUCTS: list[type[msgspec.Struct]] = [Envelope, *(entry.fact for entry in ENTRIES), *json_schema.parts()]


def wrong_with(event: Any) -> list[str]:
    """What is wrong with an event, by the schema that is committed."""
    return list(errors(event, SCHEMA, SCHEMA))


def test_every_page_is_what_the_code_says() -> None:
    assert program.stale(program.FOLDER) == [], "run `python -m events.pages`"


@pytest.mark.parametrize("name", ["README.md", "schema.json", "asyncapi.json"])
def test_a_page_that_was_changed_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for page in ("README.md", "schema.json", "asyncapi.json"):
        shutil.copy(program.FOLDER / page, tmp_path)
    assert program.main(["--check"], tmp_path) == 0
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace("trajectory_scored", "trajectory_guessed"))
    assert program.main(["--check"], tmp_path) == 1
    assert re.findall(r"events/(\S+)", capsys.readouterr().err) == [name]
    assert program.main([], tmp_path) == 0 and program.main(["--check"], tmp_path) == 0


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# By hand\n\n{program.MARKER}\n\nold")
    assert program.pages(tmp_path)["README.md"].startswith(f"# By hand\n\n{program.MARKER}\n\n## Envelope\n")


def test_a_page_without_its_marker_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# By hand\n")
    with pytest.raises(ValueError, match="has no line"):
        program.pages(tmp_path)


def test_every_field_says_what_it_means() -> None:
    texts = {
        f"{struct.__name__}.{field.name}": field.meaning for struct in STRUCTS for field in docstrings.fields(struct)
    }
    assert [name for name, text in texts.items() if not text.endswith(".")] == []


def test_every_word_of_a_closed_set_says_what_it_means_and_there_are_no_others() -> None:
    sets = docstrings.word_sets()
    assert [(words.name, word) for words in sets for word, text in words.meanings.items() if not text] == []
    for words in sets:
        assert tuple(words.meanings) == get_args(getattr(kinds, words.name)), words.name


def test_the_event_on_the_page_is_one() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert msgspec.json.decode(codec.encode(codec.decode(shown.encode()))) == json.loads(shown)
    assert wrong_with(json.loads(shown)) == []


@pytest.mark.parametrize("name", sorted(path.name for path in HISTORIES.iterdir() if path.is_dir()))
def test_every_event_of_a_recorded_run_is_valid(name: str) -> None:
    run = folder.read(HISTORIES / name)
    valid = 0
    for stored in [*run.past, *run.messages, *run.gold]:
        try:
            codec.decode_at(stored.subject, stored.data)
        except Unreadable:
            continue
        assert wrong_with(json.loads(stored.data)) == [], stored.sequence
        valid += 1
    assert valid > 10


@pytest.mark.parametrize("tag", BY_TAG)
def test_an_event_of_any_type_is_valid_and_not_with_other_data(tag: str) -> None:
    event = json.loads(codec.encode(event_of(example(BY_TAG[tag].fact))))
    assert wrong_with(event) == []
    field = next(iter(event["data"]))
    for data in (
        {name: kept for name, kept in event["data"].items() if name != field},
        event["data"] | {field: [None]},
        event["data"] | {"mood": "good"},
    ):
        assert wrong_with(event | {"data": data}), data
        with pytest.raises(Unreadable):
            codec.decode(json.dumps(event | {"data": data}).encode())


@pytest.mark.parametrize(
    "changed",
    [{"type": "run_sung"}, {"version": 2}, {"subject": "evolog.r.x.run_paused"}, {"id": "drawn"}, {"cause": 1}],
)
def test_an_envelope_that_no_event_has_is_not_valid(changed: dict[str, Any]) -> None:
    event = json.loads(codec.encode(event_of(example(BY_TAG["run_paused"].fact))))
    assert wrong_with(event) == []
    assert wrong_with(event | changed)


def test_a_word_of_no_set_is_not_valid() -> None:
    event = json.loads(codec.encode(event_of(example(BY_TAG["rollout_failed"].fact))))
    assert wrong_with(event | {"data": event["data"] | {"kind": "tired"}})


def test_every_type_has_a_channel_on_which_its_events_stand() -> None:
    assert list(ASYNCAPI["channels"]) == list(BY_TAG)
    for tag, channel in ASYNCAPI["channels"].items():
        event = event_of(example(BY_TAG[tag].fact))
        assert channel["address"].format(run=event.run, entity=event.id) == event.subject


def test_who_sends_and_receives_is_who_may() -> None:
    found = {
        (operation["tags"][0]["name"], operation["action"], operation["channel"]["$ref"].rsplit("/", 1)[1])
        for operation in ASYNCAPI["operations"].values()
    }
    sends = {(service, "send", entry.fact.tag()) for entry in ENTRIES for service in entry.publishers}
    assert found == sends | {(service, "receive", tag) for service, tags in CONSUMERS.items() for tag in tags} | {
        ("verifier", "receive", "cuda_scoring_requested")
    }


def test_every_reference_of_the_asyncapi_file_leads_somewhere() -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    for reference in references(ASYNCAPI):
        file, _, path = reference.partition("#/")
        node: Any = {"": ASYNCAPI, asyncapi.SCHEMA: SCHEMA}[file]
        for name in path.split("/"):
            node = node[name]


def test_nothing_imports_what_makes_the_pages() -> None:
    importers = {
        module
        for module, others in import_graph().items()
        if not module.startswith("events.pages")
        for other in others
        if other.startswith("events.pages")
    }
    assert importers == set()
