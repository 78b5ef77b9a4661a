"""How an agent says what it changes in a scaffold: whole files, changes within files, files to take away, and the
scaffold that all of this is made from.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec

from runtime.agents.proposal import with_changes
from runtime.agents.session import UnfitRequest

QUOTED = 200
"""Characters of an edit that are quoted where it does not fit."""
GENERATION = "generation-"


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Annotated[str, msgspec.Meta(description="Relative, such as agent.py or steps/vote.py.")]
    text: Annotated[str, msgspec.Meta(description="The whole file.")]


class FileEdit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: Annotated[str, msgspec.Meta(description="A file of the base.")]
    old: Annotated[
        str, msgspec.Meta(min_length=1, description="A part of it, word for word, that stands there exactly once.")
    ]
    new: Annotated[str, msgspec.Meta(description="What stands there instead.")]


Files = Annotated[list[File], msgspec.Meta(description="Files to write, whole.")]
Edits = Annotated[list[FileEdit], msgspec.Meta(description="Changes within files.")]
Removed = Annotated[list[str], msgspec.Meta(description="Files to take away.")]
Base = Annotated[
    str,
    msgspec.Meta(
        description="What is changed: empty for the present scaffold, `trial-...` for one that was tried, "
        "`generation-3` for that of an earlier candidate."
    ),
]
"""The arguments of every tool that changes a scaffold: this and the three above."""


class Changes:
    """The scaffolds that a change can be made from: the present one, those of earlier candidates, and those that were
    tried. `read` gives the files of a scaffold's digest.
    """

    def __init__(
        self,
        present: Mapping[str, str],
        candidates: Mapping[int, str] = {},
        read: Callable[[str], Mapping[str, str]] = lambda digest: {},
    ) -> None:
        self.present, self._read = dict(present), read
        self._known = {f"{GENERATION}{number}": digest for number, digest in candidates.items()}

    def add(self, name: str, scaffold: str) -> None:
        """From now on a change may be made from this scaffold too, by this name."""
        self._known[name] = scaffold

    def files(self, base: str) -> Mapping[str, str]:
        """The files of a base; raises `UnfitRequest` for one that there is not."""
        if not base:
            return self.present
        if base not in self._known:
            there_are = ", ".join(self._known) or "none besides the present one, which is empty text"
            raise UnfitRequest(f"There is no base {base[:80]!r}; there are {there_are}.")
        return self._read(self._known[base])

    def apply(
        self, base: str, files: Sequence[File], edits: Sequence[FileEdit], remove: Sequence[str]
    ) -> dict[str, str]:
        """The base with these changes; raises `UnfitRequest` for one that cannot be made."""
        before = self.files(base)
        written = [(file.path, file.text) for file in files]
        return with_changes(before, [*written, *_edited(before, edits, {path for path, _ in written})], remove)


def _edited(files: Mapping[str, str], edits: Sequence[FileEdit], written: set[str]) -> list[tuple[str, str]]:
    """The files that the edits change, each edit on what those before it have left."""
    texts: dict[str, str] = {}
    for edit in edits:
        if edit.path in written:
            raise UnfitRequest(f"{edit.path[:120]!r} is both edited and written whole; do one of the two.")
        if edit.path not in files:
            raise UnfitRequest(
                f"There is no {edit.path[:120]!r} to edit; the base holds {', '.join(sorted(files))}. Write a new file "
                "whole, under `files`."
            )
        text = texts.get(edit.path, files[edit.path])
        if (count := text.count(edit.old)) != 1:
            where = "does not stand" if not count else f"stands {count} times"
            raise UnfitRequest(
                f"The edit of {edit.path} does not fit: its `old` {where} there, and it must stand there exactly once, "
                f"word for word. It begins {edit.old[:QUOTED]!r}. Quote more of the file, or write it whole under "
                "`files`."
            )
        texts[edit.path] = text.replace(edit.old, edit.new)
    return list(texts.items())
