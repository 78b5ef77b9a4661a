"""The archivist: projects the log into the archive as it grows, and answers SQL on a unix socket and over the broker.

It alone holds the file open.
"""

import asyncio
import logging
import socketserver
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from events.errors import TryAgain, Unavailable, UsageError
from replay.archive.projection import Archive, open_archive
from replay.archive.query import (
    QUERIES,
    SECONDS,
    SOCKET,
    QueryRequest,
    listen_path,
    refusal,
    sent,
    start,
    stop_listening,
)
from replay.archive.query_process import QueryLimits
from runtime.log.port import Log
from runtime.log.questions import Answering
from runtime.log.worker import first_ended, retry_until_available
from runtime.status import StatusReporter
from services.host.context import Context

logger = logging.getLogger("evolog")
PAGE_SIZE = 5000
SMALL_PAGE = 1000
"""A page with fewer messages ends at the log's end; the next read then waits."""
POLL_SECONDS = 0.25
"""Seconds between two reads at the end of the log. Small transactions are what costs the archive most."""
CONCURRENT = 8
"""Queries that run at the same time; one more is refused with `TryAgain`."""
LONGEST_REQUEST = 1024 * 1024
"""Bytes of a request's line."""


async def serve(context: Context) -> None:
    """Run the service: project the log into its archive, and answer queries."""
    archive = await asyncio.to_thread(open_archive, context.node.archive)
    server = QueryServer(archive, context.node.directory / SOCKET)
    answering = Answering(
        context.connection, QUERIES.partition(".")[0], lambda subject, sql: server.answer(sql.decode())
    )
    try:
        await retry_until_available(lambda: answering.listen([QUERIES]))
        await first_ended(answering.serve(), follow(context.log, archive, context.status))
    finally:
        server.close()
        archive.close()


async def follow(log: Log, archive: Archive, status: StatusReporter | None = None) -> None:
    """Project a log into an archive, without end; `status` is told, as the log is, of pages with much in them."""
    status = status or StatusReporter("archivist")
    while True:
        try:
            page = await log.read(archive.cursor + 1, PAGE_SIZE)
        except Unavailable as wrong:
            logger.warning("%s", wrong)
            page = []
        if page:
            level = logging.INFO if len(page) >= SMALL_PAGE else logging.DEBUG
            with status.logged("takes events into the archive", level, items=len(page), to=page[-1].sequence):
                await asyncio.to_thread(archive.apply, page)
        status.reached(archive.cursor)
        if len(page) < SMALL_PAGE:
            await asyncio.sleep(POLL_SECONDS)


class QueryServer:
    """Answers queries over an archive on a unix socket, each in a thread and a forked process of its own.

    The archive's owner may apply events meanwhile: each query sees the archive as it was when the query began.
    """

    def __init__(self, archive: Archive, socket_path: Path, limits: QueryLimits = QueryLimits(SECONDS)) -> None:
        self._socket_path = socket_path
        self._server = _Server(archive, listen_path(socket_path), limits)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="queries", daemon=True)
        self._thread.start()

    def answer(self, sql: str) -> bytes:
        """The whole answer to a question that came another way, as the socket gives it: lines of JSON."""
        return b"".join(self._server.lines(sql, self._server.limits))

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        stop_listening(self._socket_path)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, archive: Archive, path: Path, limits: QueryLimits) -> None:
        self.archive = archive
        self.limits = limits
        self.permits = threading.BoundedSemaphore(CONCURRENT)
        self._path = path
        super().__init__(str(path), _Handler)

    def lines(self, sql: str, limits: QueryLimits) -> Generator[bytes]:
        """The lines of the answer to one query."""
        if not self.permits.acquire(blocking=False):
            yield refusal(TryAgain(f"{CONCURRENT} queries are being answered already; try again."))
            return
        archive = self.archive
        try:
            with archive.reading(
                lambda: closing(start(lambda: archive.connection, archive.path, sql, limits))
            ) as process:
                yield from sent(process)
        finally:
            self.permits.release()

    def server_activate(self) -> None:
        self._path.chmod(0o600)
        super().server_activate()


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.request.settimeout(self.server.limits.seconds)
        # a client that goes away or stops reading is no concern of anybody else
        with suppress(OSError), closing(self._lines()) as lines:
            for line in lines:
                self.wfile.write(line)

    def _lines(self) -> Generator[bytes]:
        try:
            request = msgspec.json.decode(self.rfile.readline(LONGEST_REQUEST), type=QueryRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
            yield refusal(
                UsageError(f'A question is one line of JSON, such as {{"sql": "FROM runs"}}; this one is not: {wrong}.')
            )
            return
        yield from self.server.lines(request.sql, self.server.limits)
