"""What agents leave for later generations: notes and files, published as facts, and shown to the agents after them."""

from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

import msgspec

from events.codec import Event
from events.fact import Fact
from events.population import ArtefactPublished
from runtime.agents.session import AgentSession, UnfitRequest, arguments_of, clipped
from runtime.blobs.directory import Blobs

SIZE_LIMIT = 64 * 1024
"""Bytes of one artefact."""
MOST = 8
"""Artefacts that one generation may publish."""
PAGE = 12_000
"""Characters of an artefact that are read at once."""
NAME = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
MEDIA_TYPES = {
    ".md": "text/markdown",
    ".json": "application/json",
    ".csv": "text/csv",
    ".py": "text/x-python",
}
"""By the ending of the name; any other is plain text."""


class PublishArtefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leave a note or a file for the agents of later generations, such as what you found out or what not to try again.
    This ends nothing; call it before your ending.
    """

    name: Annotated[
        str, msgspec.Meta(pattern=NAME, description="Letters, digits, '_', '-' and '.', such as findings.md.")
    ]
    text: Annotated[str, msgspec.Meta(min_length=1, description="The whole of it, at most 64 KiB.")]
    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=300, description="What it is, in one sentence.")]


class ReadArtefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read what an earlier generation left, 12,000 characters at a time."""

    generation: int
    name: str
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0


class Artefact(NamedTuple):
    """A published artefact and its text."""

    published: ArtefactPublished
    text: str


def left_by(history: Sequence[Event], generations: Collection[int], blobs: Blobs) -> list[Artefact]:
    """What these generations left, the latest first."""
    found = {
        event.data.key(): event.data
        for event in history
        if isinstance(event.data, ArtefactPublished) and event.data.generation in generations
    }
    latest = sorted(found.values(), key=lambda published: (-published.generation, published.name))
    return [Artefact(published, blobs.get(published.blob).decode(errors="replace")) for published in latest]


def artefacts_text(artefacts: Sequence[Artefact], limit: int) -> str:
    """A list of them with their texts, as far as these fit."""
    parts = []
    for published, text in artefacts:
        title = f"### generation {published.generation}, {published.name}: {published.summary}"
        fits = len(title) + len(text) <= limit
        part = f"{title}\n{text}" if fits else f"{title}\n{published.size:,} bytes, not shown; read_artefact shows them"
        limit -= len(part)
        if limit < 0:
            parts.append("and others, earlier")
            break
        parts.append(part)
    return "\n\n".join(parts)


def reader(artefacts: Sequence[Artefact]) -> Callable[[str], str]:
    """The tool that reads one of these."""

    def read(arguments: str) -> str:
        wanted = arguments_of(ReadArtefact, arguments)
        for published, text in artefacts:
            if published.key() == (wanted.generation, wanted.name):
                return clipped(text[wanted.offset :], PAGE)
        names = ", ".join(f"{published.name} of generation {published.generation}" for published, _ in artefacts)
        raise UnfitRequest(
            f"There is no artefact {wanted.name[:80]!r} of generation {wanted.generation}; there are {names or 'none'}."
        )

    return read


def publisher(
    session: AgentSession, record: Callable[[Fact], Fact | None], published: Collection[str] = ()
) -> Callable[[str], str]:
    """The tool that publishes one. `published` names what this generation has published before, as in a conversation
    that goes on after a crash: what is published again is the same fact.

    `record` appends a fact, and gives the one that stood there already, if one did.
    """
    names = set(published)

    def publish(arguments: str) -> str:
        wanted = session.scanner.redacted(arguments_of(PublishArtefact, arguments))
        content = wanted.text.encode()
        if len(content) > SIZE_LIMIT:
            raise UnfitRequest(f"{wanted.name} has {len(content):,} bytes; expected at most {SIZE_LIMIT:,}.")
        if wanted.name not in names and len(names) >= MOST:
            raise UnfitRequest(f"A generation publishes at most {MOST} artefacts: {', '.join(sorted(names))}.")
        artefact = ArtefactPublished(
            generation=session.generation,
            name=wanted.name,
            blob=session.blobs.put(content),
            media_type=MEDIA_TYPES.get(PurePosixPath(wanted.name).suffix, "text/plain"),
            size=len(content),
            summary=wanted.summary,
        )
        if (record(artefact) or artefact) != artefact:
            raise UnfitRequest(f"{wanted.name} is published already and stays as it is; choose another name.")
        names.add(wanted.name)
        return f"{wanted.name} is published, {len(content):,} bytes."

    return publish
