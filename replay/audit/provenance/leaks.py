"""Checks that nothing of the hidden items came in sight of the loop, and that none was trained on."""

import base64
import codecs
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgspec

from events.change import ChildRunFinished, ScaffoldProposed
from events.choice import AgentCalled, ContextAssembled
from events.rollouts import ModelCalled, RolloutsRequested
from events.weights import TrainingBatchSealed
from replay.audit.provenance.digests import DigestsSeen, HiddenDigests
from replay.audit.provenance.encodings import BASE64, LETTERS_AND_DIGITS, decoded, texts_of, tokens
from replay.audit.provenance.fault import ProvenanceFault, Read, scaffold_files
from replay.audit.provenance.stretches import Stretches
from replay.recorded import StoredEvent

STRETCH = 60
"""Letters and digits in a row that nobody writes by chance."""
SHORTEST_PROMPT = 20
"""A prompt with fewer letters and digits is searched for by its id only."""
SHORTEST_ID = 5
"""A shorter id is not searched for."""
LONG_PROMPT = 2000
"""From so many characters on a prompt is not remembered in its normalized form; others are asked for several times."""
LARGE_NUMBER = 10**7
"""A number in JSON from which on it may be a digest."""

_ID = LETTERS_AND_DIGITS + "_.:/-"
"""The characters of ids that are searched for."""
_NO_LETTER = re.compile(r"[\W_]+")


def hidden_in_sight(
    events: Sequence[StoredEvent],
    read: Read,
    hidden: Mapping[str, str],
    public: Iterable[str] = (),
    blobs: Collection[str] = (),
) -> list[ProvenanceFault]:
    """Hidden items in the input of an agent, a scaffold or the policy, by id, text or digest; attempts at them; and
    blobs of the auditor's.

    `hidden` are prompts by id. A text counts where `STRETCH` letters and digits in a row stand in a hidden prompt and
    in none of the `public` ones. An id counts where it has `SHORTEST_ID` characters or more, all of them ASCII and not
    all digits. Both are looked for as they are, backwards, in rot13 and in all that `decoded` knows; their digests are
    those of `HiddenDigests`, without those of public texts.
    """
    ids = {id for id in hidden if len(id) >= SHORTEST_ID and not id.isdigit() and set(id) <= set(_ID)}
    plain_ids, encoded_ids = {id.encode(): id for id in ids}, _encoded_ids(ids)
    public = list(public)

    @cache  # made when a text first needs them: it takes long, and GOLD has none
    def known() -> tuple[Stretches, HiddenDigests]:
        named = [*((id, prompt) for id, prompt in hidden.items()), *((id, id) for id in ids)]
        return _stretches(hidden, public), HiddenDigests(named, _variants, public)

    def hidden_ids(text: str) -> frozenset[str]:
        words = in_base64 = tokens(text, _ID)
        if any(mark in text for mark in ".:/-"):
            words = {word.strip(b".:/-") for word in words}
        if any(mark in text for mark in ".:+"):
            in_base64 = tokens(text, BASE64)
        named = {plain_ids[word] for word in words & plain_ids.keys()}
        named |= {encoded_ids[token] for token in (words | in_base64) & encoded_ids.keys()}
        return frozenset(named | {id for _, id in known()[0].shared(normalized(text))})

    sights: dict[str | bytes, _Sight] = {}  # a run shows the same prompts over and over

    def sight(text: str) -> _Sight:
        key = text if len(text) < 32 else hashlib.sha256(text.encode(errors="surrogatepass")).digest()
        if key not in sights:
            sights[key] = new_sight(text)
        return sights[key]

    def new_sight(text: str) -> _Sight:
        inner = {within: form for form, within in decoded(text)}
        encoded = frozenset((id, form) for within, form in inner.items() for id in hidden_ids(within))
        return _Sight(hidden_ids(text), encoded, tuple(known()[1].seen(one) for one in (text, *inner)))

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
            elif hidden and (said := _said([sight(text) for text in _texts(read(digest))], known()[1])):
                faults.append(ProvenanceFault(stored.sequence, f"{description} (blob {digest[:12]}) holds {said}."))
    return faults


class _Sight(NamedTuple):
    """The hidden items that a text shows."""

    plain: frozenset[str]
    """By id or text, as they are."""
    encoded: frozenset[tuple[str, str]]
    """By id or text in another form, with the form."""
    digests: tuple[DigestsSeen, ...]


def _said(sights: Sequence[_Sight], digests: HiddenDigests) -> str:
    """What the texts of a blob hold of hidden items, in words; empty: nothing."""
    plain = {id for sight in sights for id in sight.plain}
    encoded = {pair for sight in sights for pair in sight.encoded}
    if plain or encoded:
        forms = "" if plain else f", {' and '.join(sorted({form for _, form in encoded}))}"
        return f"the id or the text of {_count_and_example(plain or {id for id, _ in encoded})}{forms}"
    if leaked := digests.leaked(one for sight in sights for one in sight.digests):
        names = " and ".join(sorted({name for _, name in leaked}))
        return f"digests ({names}) of {_count_and_example({id for id, _ in leaked})}"
    return ""


def _encoded_ids(ids: Collection[str]) -> dict[bytes, str]:
    """The ids by what else they may be written as. Without a digit in it, one may be a word backwards or in rot13."""
    encoded: dict[bytes, str] = {}
    for id in ids:
        data = id.encode()
        forms = [data.hex(), data.hex().upper()]
        forms += [encode(data).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)]
        forms += [id[::-1], codecs.encode(id, "rot13")] if any(map(str.isdigit, id)) else []
        encoded |= {form.encode(): id for form in forms if form not in ids}
    return encoded


def _variants(text: str) -> tuple[str, ...]:
    """The forms of a text whose digests are looked for."""
    stripped = text.strip()
    return text, stripped, text.lower(), stripped.lower(), " ".join(text.split()), normalized(text)


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


class _Letters(dict[int, str | None]):
    """What is left of each character in a normalized text; None for nothing, which `translate` is quicker with."""

    def __missing__(self, code: int) -> str | None:
        self[code] = _NO_LETTER.sub("", unicodedata.normalize("NFKD", chr(code)).casefold()) or None
        return self[code]


_LETTERS = _Letters()


def normalized(text: str) -> str:
    """A text without case, width, accents, spaces and marks, which can change and leave it the same."""
    return _normalized_once(text) if len(text) < LONG_PROMPT else text.translate(_LETTERS)


@lru_cache(maxsize=1 << 13)
def _normalized_once(text: str) -> str:
    return text.translate(_LETTERS)


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


def _stretches(hidden: Mapping[str, str], public: Iterable[str]) -> Stretches:
    """By the length of stretches of text: the ids of the hidden items that alone have them, by stretch; and by what the
    stretch is backwards and in rot13.
    """
    stretches: dict[int, dict[str, str]] = defaultdict(dict)
    for id, prompt in hidden.items():
        text = normalized(prompt)
        if len(text) >= SHORTEST_PROMPT:
            width = min(STRETCH, len(text))
            for start in (*range(0, len(text) - width, width), len(text) - width):
                stretches[width][text[start : start + width]] = id
    plain = Stretches(stretches)
    for stretch in {stretch for prompt in public for stretch, _ in plain.shared(normalized(prompt))}:
        del stretches[len(stretch)][stretch]
    for ids in stretches.values():
        for stretch, id in list(ids.items()):
            turned = codecs.encode(stretch, "rot13")
            for form in (stretch[::-1], turned, turned[::-1]):
                ids.setdefault(form, id)
    return Stretches(stretches)


def _texts(data: bytes) -> set[str]:
    """All strings and large numbers in JSON, and in JSON within its strings; anything else is one text, and of data
    what can be read of them.
    """
    try:
        waiting: list[Any] = [[msgspec.json.decode(data)]]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data.decode(errors="replace")
        return {text, *texts_of(data)} if "\0" in text or "\ufffd" in text else {text}
    texts: set[str] = set()
    while waiting:
        members = waiting.pop()
        for member in (*members, *members.values()) if isinstance(members, dict) else members:
            if isinstance(member, str):
                if member not in texts:
                    texts.add(member)
                    if member.startswith(("{", "[")) and member.rstrip().endswith(("}", "]")):
                        with suppress(msgspec.DecodeError, RecursionError):  # else it only looks like JSON
                            waiting.append(msgspec.json.decode(member))
            elif isinstance(member, dict | list):
                waiting.append(member)
            elif isinstance(member, int) and abs(member) >= LARGE_NUMBER:
                texts.add(str(member))
    return texts
