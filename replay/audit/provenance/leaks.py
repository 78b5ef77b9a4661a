"""Checks that nothing of the hidden items came in sight of the loop, and that none was trained on."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache

import msgspec

from events.change import ChildRunFinished, ScaffoldProposed
from events.choice import AgentCalled, ContextAssembled
from events.rollouts import ModelCalled, RolloutsRequested
from events.weights import TrainingBatchSealed
from replay.audit.provenance.fault import ProvenanceFault, Read, scaffold_files
from replay.recorded import StoredEvent

STRETCH = 60
"""Letters and digits in a row that nobody writes by chance."""
SHORTEST_PROMPT = 20
"""A prompt with fewer letters and digits is searched for by its id only."""
SHORTEST_ID = 5
"""A shorter id is not searched for."""

_ID = re.compile(r"[A-Za-z0-9_.:/-]+")
_NO_LETTER = re.compile(r"[\W_]+")


def hidden_in_sight(
    events: Sequence[StoredEvent],
    read: Read,
    hidden: Mapping[str, str],
    public: Iterable[str] = (),
    blobs: Collection[str] = (),
) -> list[ProvenanceFault]:
    """Hidden items in the input of an agent, a scaffold or the policy, by id or by text; attempts at them; and blobs of
    the auditor's.

    `hidden` are prompts by id. A text counts where `STRETCH` letters and digits in a row stand in a hidden prompt and
    in none of the `public` ones. An id counts where it has `SHORTEST_ID` characters or more, all of them ASCII and not
    all digits.
    """
    ids = {id for id in hidden if len(id) >= SHORTEST_ID and not id.isdigit() and _ID.fullmatch(id)}
    stretches = cache(
        lambda: _stretches(hidden, public)
    )  # made when a text first needs it: it takes long, and GOLD has none

    @cache  # a run shows the same prompts over and over
    def hidden_ids(text: str) -> frozenset[str]:
        named_ids = {token.strip(".:/-") for token in _ID.findall(text)} & ids
        return frozenset(named_ids | {id for _, id in _shared(stretches(), normalized(text))})

    faults = []
    seen: set[str] = set()
    for stored in events:
        if isinstance(requested := stored.event.data, RolloutsRequested) and (
            hidden_items := hidden.keys() & set(requested.items)
        ):
            faults.append(
                ProvenanceFault(stored.sequence, f"The loop asked for attempts at {_count_and_example(hidden_items)}.")
            )
        for description, digest in _inputs(stored, read):
            if digest in seen:
                continue
            seen.add(digest)
            if digest in blobs:
                faults.append(
                    ProvenanceFault(stored.sequence, f"{description} is blob {digest[:12]} of the auditor's.")
                )
                continue
            if hidden_items := {id for text in _texts(read(digest)) for id in hidden_ids(text)}:
                faults.append(
                    ProvenanceFault(
                        stored.sequence,
                        f"{description} (blob {digest[:12]}) holds the id or the text of "
                        f"{_count_and_example(hidden_items)}.",
                    )
                )
    return faults


def trained_on_audited(
    events: Sequence[StoredEvent], audited: Mapping[str, str], public: Mapping[str, str]
) -> list[ProvenanceFault]:
    """Sealed training batches with audited items, by id or by a prompt that differs only in case, spaces and marks.

    `audited` and `public` are prompts by id.
    """
    if not any(isinstance(stored.event.data, TrainingBatchSealed) for stored in events):
        return []
    hidden = {normalized(prompt): id for id, prompt in audited.items() if normalized(prompt)}
    audited_ids = {id: hidden[text] for id, prompt in public.items() if (text := normalized(prompt)) in hidden} | {
        id: id for id in audited
    }
    requested: dict[str, tuple[str, ...]] = {}
    faults = []
    for stored in events:
        match stored.event.data:
            case RolloutsRequested(items=items):
                requested[stored.event.id] = items
            case TrainingBatchSealed(requests=requests, generation=generation, round=number):
                if audited_items := sorted(
                    {item for request in requests for item in requested.get(request, ()) if item in audited_ids}
                ):
                    wording = (
                        ""
                        if audited_ids[audited_items[0]] == audited_items[0]
                        else f", which is the audited item {audited_ids[audited_items[0]]!r} word for word"
                    )
                    batch = f"The batch of generation {generation}, round {number}"
                    count = f"{len(audited_items)} of the items that are audited"
                    faults.append(
                        ProvenanceFault(
                            stored.sequence, f"{batch}, trains on {count}, such as {audited_items[0]!r}{wording}."
                        )
                    )
    return faults


def normalized(text: str) -> str:
    """A text without case, width, spaces and marks, which can change and leave it the same."""
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).casefold())


def _count_and_example(hidden: Collection[str]) -> str:
    return f"{len(hidden)} hidden item{'s' if len(hidden) > 1 else ''}, such as {min(hidden)!r}"


def _inputs(stored: StoredEvent, read: Read) -> Iterator[tuple[str, str]]:
    """The blobs of an event that went into an agent, a scaffold or the policy: a description and a digest each."""
    match stored.event.data:
        case ContextAssembled(generation=generation, blob=blob, parts=parts):
            for digest in (blob, *parts.values()):
                yield f"What the agent saw in generation {generation}", digest
        case AgentCalled(generation=generation, request=request):
            yield f"What the agent was told in generation {generation}", request
        case (
            ScaffoldProposed(generation=generation, scaffold=scaffold)
            | ChildRunFinished(generation=generation, scaffold=scaffold)
        ) if scaffold:
            for path, digest in scaffold_files(scaffold, read).items():
                yield f"The file {path} of the scaffold of generation {generation}", digest
        case ModelCalled(item=item, body=body) if body:
            yield f"What the policy was asked for item {item!r}", body


def _stretches(hidden: Mapping[str, str], public: Iterable[str]) -> dict[int, dict[str, str]]:
    """By the length of stretches of text: the ids of the hidden items that alone have them, by stretch."""
    stretches: dict[int, dict[str, str]] = defaultdict(dict)
    for id, prompt in hidden.items():
        text = normalized(prompt)
        if len(text) >= SHORTEST_PROMPT:
            width = min(STRETCH, len(text))
            for start in (*range(0, len(text) - width, width), len(text) - width):
                stretches[width][text[start : start + width]] = id
    for prompt in public:
        for stretch, _ in _shared(stretches, normalized(prompt)):
            del stretches[len(stretch)][stretch]
    return stretches


def _shared(stretches: Mapping[int, Mapping[str, str]], text: str) -> set[tuple[str, str]]:
    """The stretches that a text has, with the id of the item that each belongs to."""
    return {
        (stretch, ids[stretch])
        for width, ids in stretches.items()
        for start in range(len(text) - width + 1)
        if (stretch := text[start : start + width]) in ids
    }


def _texts(data: bytes) -> set[str]:
    """All strings in JSON, and in JSON within its strings; anything else is one text."""
    try:
        return set(_strings(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {data.decode(errors="replace")}


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
            if value.startswith(("{", "[")):
                with suppress(msgspec.DecodeError, RecursionError):  # else it only begins like JSON
                    yield from _strings(msgspec.json.decode(value))
        case dict():
            for key, member in value.items():
                yield from _strings(key)
                yield from _strings(member)
        case list():
            for member in value:
                yield from _strings(member)
