"""Writes runs in the formats of `evolog export`, and sends their spans; each function gives the exit code."""

import asyncio
import os
from pathlib import Path
from typing import Any

import click
import msgspec

from replay.exports.otel import OtlpSpan, RunSpans, as_json, batches, request_of
from replay.exports.target import new_file
from replay.history import History
from runtime.log.port import Log, Stored, readable
from services.cli.reading import read_run
from services.host.node import version
from services.views.progress import working

NAMES = {
    "folder": "{run}-export",
    "inspect": "{run}-inspect",
    "otel": "{run}.otlp.jsonl",
    "parquet": "{run}-parquet",
}
"""Where each format is written to by default."""
POLL_SECONDS = 0.5
PAGE_SIZE = 2000


class SpansExport(msgspec.Struct, kw_only=True):
    """Spans that were written or sent: how many, and to which file or address."""

    version: int = 1
    run: str
    to: str
    spans: int


def to_folder(directory: Path, name: str, output: Path | None, in_json: bool) -> int:
    """Write log and blobs, to be replayed elsewhere."""
    from services.cli.replay import export_run

    return export_run(directory, name, output or _place(Path(name).name, "folder"), in_json)


def to_inspect(directory: Path, name: str, output: Path | None, gold: bool, in_json: bool) -> int:
    """Write logs of Inspect."""
    from replay.exports.inspect import write_inspect

    history = read_run(directory, name)
    target = output or _place(history.run, "inspect")
    with working(f"exporting {history.run}"):
        written = write_inspect(history, target, gold=gold)
    words = f"{written.run}: {written.samples:,} samples in {len(written.files)} files: inspect view --log-dir {target}"
    return _say(written, words, in_json)


def to_parquet(directory: Path, name: str, output: Path | None, gold: bool, in_json: bool) -> int:
    """Write a data set."""
    from replay.exports.parquet import write_data_set

    history = read_run(directory, name)
    target = output or _place(history.run, "parquet")
    with working(f"exporting {history.run}"):
        written = write_data_set(history, target, gold=gold)
    rows = sum(table.rows for table in written.tables)
    return _say(written, f"{written.run}: {len(written.tables)} tables with {rows:,} rows, in {target}", in_json)


def to_otlp_file(directory: Path, name: str, output: Path | None, gold: bool, messages: bool, in_json: bool) -> int:
    """Write spans into a file, a request of OTLP's JSON a line."""
    history = read_run(directory, name)
    target, count = output or _place(history.run, "otel"), 0
    with working(f"exporting {history.run}"), new_file(target) as temporary, temporary.open("wb") as file:
        for batch in batches(_spans(history, gold, messages)):
            file.write(as_json(request_of(batch, version())) + b"\n")
            count += len(batch)
    written = SpansExport(run=history.run, to=str(target), spans=count)
    return _say(written, f"{history.run}: {count:,} spans, in {target}", in_json)


def sends(output: Path | None) -> bool:
    """Whether spans are sent: a receiver is named, and no file."""
    from services.host.otlp import ENDPOINT, TRACES_ENDPOINT

    return output is None and bool(os.environ.get(ENDPOINT) or os.environ.get(TRACES_ENDPOINT))


def send_spans(directory: Path, name: str, gold: bool, messages: bool, follow: bool, in_json: bool) -> int:
    """Send spans to the receiver that the environment names, with `follow` until the run has ended."""
    from services.host.imports import find_export
    from services.host.node import Node
    from services.host.otlp import SpanSender, receiver

    sender = SpanSender(receiver(os.environ), version())
    if follow and find_export(Node(directory), name) is None:
        run = _follow(directory, name, gold, messages, sender)
    else:
        history = read_run(directory, name)
        run = history.run
        with working(f"sending the spans of {run}"):
            for batch in batches(_spans(history, gold, messages)):
                sender.send(batch)
    sent = SpansExport(run=run, to=sender.receiver.url, spans=sender.sent)
    return _say(sent, f"{run}: {sender.sent:,} spans, sent to {sender.receiver.url}", in_json)


def _spans(history: History, gold: bool, messages: bool) -> Any:
    spans = _maker(history, messages)
    for stored in history.messages:
        yield from _taken(spans, stored)
    if not history.finished:
        yield from spans.end()
    for stored in history.gold if gold else ():
        for event in readable([stored]):
            yield from spans.audited(event, stored.time)


def _maker(history: History, messages: bool) -> RunSpans:
    from replay.exports.attempts import conversations, prompts

    return RunSpans(history.run, prompts(history), conversations(history)) if messages else RunSpans(history.run)


def _taken(spans: RunSpans, stored: Stored) -> list[OtlpSpan]:
    return [span for event in readable([stored]) for span in spans.take(event, stored.time)]


def _follow(directory: Path, name: str, gold: bool, messages: bool, sender: Any) -> str:
    """Send what a run appends as it comes, until it has ended; its name."""
    from events.run import RunFinished
    from events.subjects import run_of, tag_of
    from replay.history import gold_messages
    from runtime.log.lineage import run_start
    from services.host.blobs import operator_blobs
    from services.host.node import Node
    from services.host.sources import find_run, with_logs

    node = Node(directory)
    node.require_up()

    async def work(log: Log, gold_log: Log) -> str:
        run = await find_run(log, name)
        start, _ = await run_start(log, run)
        blobs = operator_blobs(node)
        spans = _maker(History(run, [], [start], [], blobs, blobs), messages)
        position, ended = start.sequence - 1, False
        while not ended:
            page = await log.read(position + 1, PAGE_SIZE)
            if not page:
                node.require_up()
                await asyncio.sleep(POLL_SECONDS)
                continue
            position = page[-1].sequence
            own = [stored for stored in page if run_of(stored.subject) == run]
            made = [span for stored in own for span in _taken(spans, stored)]
            for batch in batches(made):
                await asyncio.to_thread(sender.send, batch)
            ended = any(tag_of(stored.subject) == RunFinished.tag() for stored in own)
        if gold:
            audited = [
                span
                for stored in await gold_messages(gold_log, run)
                for event in readable([stored])
                for span in spans.audited(event, stored.time)
            ]
            for batch in batches(audited):
                await asyncio.to_thread(sender.send, batch)
        return run

    return with_logs(directory, work)


def _place(run: str, form: str) -> Path:
    return Path(NAMES[form].format(run=run))


def _say(value: object, words: str, in_json: bool) -> int:
    click.echo(msgspec.json.encode(value).decode() if in_json else words)
    return 0
