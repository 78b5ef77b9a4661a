"""Reads runs for an agent out of the archive and the blobs of a project directory, in answers of a limited size.

What the auditor measures is in neither, so no answer can hold gold. Each answer says what was left out of it.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from events.errors import NotFound, UsageError, UserError
from replay.archive.query import JSON_ENCODER, QueryResult, first_rows, text_literal
from runtime.policies.interface import SampleRequest
from services.host.blobs import reading_blobs
from services.host.imports import imported_runs
from services.host.node import Node
from services.host.visible import visible

ROWS = 100
"""Most rows of one answer, unless more are asked for."""
MOST_ROWS = 1000
TEXT = 4_000
"""Most characters of one text in a row."""
ANSWER = 60_000
"""Most characters of one answer."""
FILE = 20_000
"""Most characters of one file of a scaffold, and of a diff."""
Order = Literal["first", "best", "worst", "longest", "shortest"]
_ORDERS: dict[str, str] = {
    "first": "seq",
    "best": "reward DESC NULLS LAST, seq",
    "worst": "reward ASC NULLS LAST, seq",
    "longest": "length(answer) DESC NULLS LAST, seq",
    "shortest": "length(answer) ASC NULLS LAST, seq",
}
_OF_FILES = "`evolog show`, `diff`, `report`, `audit` and `export` read them"
_PRIVATE = "[left out: the prompts of this task are private]"


class RunReader(NamedTuple):
    """Answers questions about the runs of one directory, as JSON text."""

    node: Node

    def list_runs(self, limit: int, offset: int) -> str:
        """The runs, the latest first, and the names of those that are here as files alone."""
        columns = "run, task, policy, agent, seed, levers, state, reason, started, generations, first_score, score"
        sql = f"SELECT {columns}, rollouts, tokens FROM runs ORDER BY started DESC, run OFFSET {max(0, offset)}"
        files = imported_runs(self.node)
        note = f"Imported runs are not in the archive: {_OF_FILES}."
        return self._answer(sql, limit, {"imported": files, "note": note} if files else {})

    def show_run(self, name: str) -> str:
        """One run: what was ordered, how it stands, and its generations."""
        run = self.find(name)
        found = {
            "run": self._rows(f"FROM runs WHERE run = {run}"),
            "ordered": self._rows(
                f"SELECT verifier, base_model, strategy, schedule, width, generations, budget, group_size, on_drift, "
                f"sandbox, judge, private_prompts FROM run_started WHERE run = {run}"
            ),
            "generations": self._rows(f"FROM generations WHERE run = {run} ORDER BY generation"),
        }
        return fitted(found, "generations")

    def compare_runs(self, first: str, second: str) -> str:
        """Where two runs differ in what was ordered, and their generations side by side."""
        names = [self.find(first), self.find(second)]
        orders = [
            self._rows(f"SELECT * EXCLUDE (seq, run, id, time, cause) FROM run_started WHERE run = {name}")[0]
            for name in names
        ]
        for order in orders:
            order["items"] = "[the items of the splits]" if order.get("items") else None
        differing = {key: [one.get(key) for one in orders] for key in orders[0] if orders[0][key] != orders[1].get(key)}
        columns = "generation, lever, action, score, low, high, standing, rollouts"
        rows = [
            self._rows(f"SELECT {columns} FROM generations WHERE run = {name} ORDER BY generation") for name in names
        ]
        count = max(map(len, rows))
        generations = [
            {"generation": number, "first": _at(rows[0], number), "second": _at(rows[1], number)}
            for number in range(count)
        ]
        runs = [
            self._rows(f"SELECT run, state, first_score, score, rollouts, tokens FROM runs WHERE run = {name}")[0]
            for name in names
        ]
        return fitted({"runs": runs, "ordered differently": differing, "generations": generations}, "generations")

    def query(self, sql: str, limit: int) -> str:
        """The answer to one SELECT over the archive."""
        return self._answer(sql, limit)

    def list_trajectories(
        self,
        name: str,
        generation: int | None,
        item: str | None,
        purpose: str | None,
        outcome: str | None,
        order: Order,
        limit: int,
        offset: int,
    ) -> str:
        """Attempts of a run, in one of the orders."""
        conditions = [f"run = {self.find(name)}"]
        conditions += [f"generation = {generation}"] if generation is not None else []
        for column, value in (("item", item), ("purpose", purpose), ("outcome", outcome)):
            conditions += [f"{column} = {text_literal(value)}"] if value is not None else []
        columns = "trajectory, generation, purpose, split, item, attempt, reward, outcome, failure, answer"
        sql = (
            f"SELECT {columns}, len(calls) AS calls, seconds FROM trajectories WHERE {' AND '.join(conditions)} "
            f"ORDER BY {_ORDERS[order]} OFFSET {max(0, offset)}"
        )
        return self._answer(sql, limit)

    def show_trajectory(self, trajectory: str) -> str:
        """One attempt: its answer and judgement, and each call of the policy with what was asked and said."""
        rows = self._rows(f"FROM trajectories WHERE trajectory = {text_literal(trajectory)}")
        if not rows:
            raise NotFound(f"There is no trajectory {trajectory!r}; list_trajectories gives their ids.")
        found: dict[str, Any] = rows[0]
        judged = self._rows(
            f"SELECT verifier, details FROM trajectory_scored WHERE trajectory = {text_literal(trajectory)}"
        )
        private = self._private(str(found["run"]))
        uses = [
            (use["call"], use["completion"]) if isinstance(use, dict) else tuple(use)
            for use in found.pop("calls") or ()
        ]
        calls = []
        for call, completion in uses[:ROWS]:
            recorded = self._rows(
                "SELECT model, adapter, temperature, body, index, texts, tokens, logprobs, prompt_tokens, seconds "
                f"FROM model_called WHERE id = {text_literal(call)}"
            )
            if recorded:
                calls.append(self._call(call, int(completion), recorded[0], private))
        return fitted({"trajectory": found, "judged": judged, "calls": calls, "calls in all": len(uses)}, "calls")

    def show_scaffold(self, name: str, generation: int) -> str:
        """The files of a generation's scaffold."""
        digest = self._scaffold(self.find(name), generation)
        files = {path: _text(data) for path, data in sorted(self._tree(digest).items())}
        shown = {path: cut(text, FILE) for path, text in files.items()}
        return fitted({"scaffold": digest, "generation": generation, "files": shown}, "files")

    def diff_scaffolds(self, name: str, generation: int, against: int | None) -> str:
        """A unified diff from another generation's scaffold, by default the parent's, to a generation's."""
        run = self.find(name)
        if against is None:
            parents = self._rows(
                "SELECT p.generation FROM candidates c JOIN candidates p ON p.candidate = c.parent "
                f"WHERE c.run = {run} AND c.generation = {generation} AND p.run = c.run"
            )
            if not parents:
                raise NotFound(f"Generation {generation} has no parent in this run: name a generation with `against`.")
            against = int(parents[0]["generation"])
        before, after = (self._tree(self._scaffold(run, number)) for number in (against, generation))
        lines: list[str] = []
        for path in sorted(before.keys() | after.keys()):
            old, new = (_text(tree.get(path, b"")).splitlines() for tree in (before, after))
            lines += difflib.unified_diff(old, new, f"{against}/{path}", f"{generation}/{path}", lineterm="")
        diff = cut("\n".join(lines), FILE) if lines else "the two scaffolds are the same"
        return fitted({"from generation": against, "to generation": generation, "diff": diff}, "diff")

    def released_verdicts(self, name: str) -> list[dict[str, Any]]:
        """What the auditor released to the loop, where the run lets it act; it stands on the loop's own log."""
        return self._rows(
            f"SELECT * EXCLUDE (run, id, cause) FROM audit_released WHERE run = {self.find(name)} ORDER BY seq"
        )

    def find(self, name: str) -> str:
        """A run's name as a SQL literal: of that name, or the only one whose name begins so.

        Raises `NotFound` for none, `UsageError` for several.
        """
        said = text_literal(name)
        rows = self._rows(f"SELECT run FROM run_started WHERE starts_with(run, {said}) ORDER BY run <> {said}, run")
        names = [str(row["run"]) for row in rows]
        if not names and name in imported_runs(self.node):
            raise NotFound(f"The run {name!r} was imported, and is not in the archive: {_OF_FILES}.")
        if not names:
            raise NotFound(f"There is no run {name!r} here; list_runs shows those that there are.")
        if names[0] != name and len(names) > 1:
            raise UsageError(
                f"{name!r} begins the names of {len(names)} runs ({', '.join(names[:5])}); give more of it."
            )
        return text_literal(names[0])

    def _call(self, id: str, completion: int, recorded: dict[str, Any], private: bool) -> dict[str, Any]:
        request = None if private else self._request(str(recorded["body"]), int(recorded["index"]))
        texts, tokens, logprobs = recorded["texts"], recorded["tokens"], recorded["logprobs"]
        prompt = _PRIVATE if private else "[not among the blobs]" if request is None else request.prompt
        return {
            "call": id,
            "model": recorded["model"],
            "temperature": recorded["temperature"],
            "prompt": prompt,
            "choices": list(request.choices)[:ROWS] if request else [],
            "completion": texts[completion] if completion < len(texts) else "",
            "tokens": len(tokens[completion]) if completion < len(tokens) else 0,
            "sum of log-probabilities": sum(logprobs[completion]) if completion < len(logprobs) else None,
            "seconds": recorded["seconds"],
        }

    def _request(self, body: str, index: int) -> SampleRequest | None:
        try:
            with reading_blobs(self.node) as blobs:
                requests = msgspec.json.decode(blobs.get(body), type=list[SampleRequest])
        except (UserError, msgspec.DecodeError, UnicodeDecodeError, OSError):
            return None
        return requests[index] if 0 <= index < len(requests) else None

    def _private(self, run: str) -> bool:
        rows = self._rows(f"SELECT private_prompts FROM run_started WHERE run = {text_literal(run)}")
        return not rows or bool(rows[0]["private_prompts"])

    def _scaffold(self, run: str, generation: int) -> str:
        for table in ("candidates", "scaffold_proposed"):
            rows = self._rows(f"SELECT scaffold FROM {table} WHERE run = {run} AND generation = {generation}")
            if rows:
                return str(rows[0]["scaffold"])
        raise NotFound(f"Generation {generation} has no scaffold in this run; show_run lists the generations.")

    def _tree(self, digest: str) -> dict[str, bytes]:
        with reading_blobs(self.node) as blobs:
            return blobs.get_tree(digest)

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        return _objects(first_rows(self.node.directory, sql, MOST_ROWS)[0])

    def _answer(self, sql: str, limit: int, also: Mapping[str, object] = MappingProxyType({})) -> str:
        limit = max(1, min(limit, MOST_ROWS))
        result, more = first_rows(self.node.directory, sql, limit)
        found = {"columns": list(result.columns), "rows": _objects(result), **also}
        return fitted(found, "rows", more=more, limit=limit)


def fitted(answer: dict[str, Any], part: str, *, more: bool = False, limit: int = 0) -> str:
    """An answer as JSON of at most about `ANSWER` characters: long texts are cut, then `part` from its end.

    What was cut stands under the key `cut`, in sentences.
    """
    notes: list[str] = []
    if more:
        notes.append(
            f"there are more than {limit:,} rows: ask for a later part with an offset, for fewer columns, or aggregate"
        )
    shown = {key: _shortened(value, notes if key != "files" and key != "diff" else []) for key, value in answer.items()}
    if notes and any(note.startswith("a text") for note in notes):
        notes = [note for note in notes if not note.startswith("a text")]
        notes.append(f"texts longer than {TEXT:,} characters are cut where they say so")
    whole = shown.get(part)
    if isinstance(whole, list):
        count = len(whole)
        while shown[part] and len(_json(shown)) > ANSWER:
            shown[part] = shown[part][: len(shown[part]) * 3 // 4]
        if len(shown[part]) < count:
            notes.append(f"{len(shown[part]):,} of {count:,} {part} are shown: the answer would be too long")
    elif isinstance(whole, dict):
        for key in sorted(whole, key=lambda name: -len(str(whole[name]))):
            if len(_json(shown)) <= ANSWER:
                break
            whole[key] = f"[left out: {len(str(whole[key])):,} characters]"
            notes.append(f"{key} is left out: the answer would be too long")
    if notes:
        shown["cut"] = notes
    return visible(_json(shown))


def cut(text: str, limit: int) -> str:
    """A text, or its beginning with a note of how long it is."""
    return text if len(text) <= limit else f"{text[:limit]}\n[cut: {limit:,} of {len(text):,} characters are shown]"


def _shortened(value: Any, notes: list[str]) -> Any:
    match value:
        case str() if len(value) > TEXT:
            notes.append("a text is cut")
            return cut(value, TEXT)
        case dict():
            return {key: _shortened(one, notes) for key, one in value.items()}
        case list() | tuple():
            return [_shortened(one, notes) for one in value]
        case _:
            return value


def _objects(result: QueryResult) -> list[dict[str, Any]]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def _json(value: object) -> str:
    return JSON_ENCODER.encode(value).decode()


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _at(rows: Sequence[dict[str, Any]], number: int) -> dict[str, Any] | None:
    return next((row for row in rows if row["generation"] == number), None)


def documentation(name: str) -> str:
    """A page that comes with evolog, by its path below the root."""
    return (Path(__file__).parents[2] / name).read_text(encoding="utf-8")
