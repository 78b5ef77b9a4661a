"""Where a project's blobs stand: in its directory, or in streams of the broker; the directory is then the host's cache.

The account's credentials say which, so that a service on a host of its own needs no setting. `evolog up --blobs stream`
moves a directory's blobs into streams, once and for all.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from events.errors import Misconfigured
from events.subjects import BLOBS, GOLD_BLOBS
from runtime.blobs.directory import Blobs
from runtime.blobs.stream import CACHE_LIMIT, ChunkSocket, StreamBlobs
from runtime.broker import issuing
from runtime.broker.accounts import OPERATOR
from runtime.broker.credentials import Credentials, Login, read_credentials, write_private
from runtime.broker.store import blobs_file, blobs_in
from services.host.node import Node
from services.host.settings import CACHE_VARIABLE, whole_number

EXAMINED = 500 * 10**6
"""Bytes that are kept of what is examined."""


def service_blobs(root: Path, stream: str, credentials: Credentials, login: Login, *, patient: bool = True) -> Blobs:
    """The blobs of that stream as a service has them: the folder is bounded, and with `patient` a broker that is away
    is waited for.

    Raises `Misconfigured` where EVOLOG_BLOB_CACHE is no number of bytes.
    """
    if credentials.blobs == "directory":
        return Blobs(root)
    return StreamBlobs(root, ChunkSocket(credentials, stream, login=login), limit=cache_limit(), patient=patient)


def operator_blobs(node: Node, login: Login | None = None) -> Blobs:
    """The blobs of a directory as the command line has them. It keeps in the folder all that it reads of a stream, for
    which the broker must be up.
    """
    return _operators(node, node.blobs, node.blobs, BLOBS, login)


@contextlib.contextmanager
def reading_blobs(node: Node) -> Iterator[Blobs]:
    """The same for one reading, after which no connection stays. What the folder holds is read without the broker."""
    blobs = operator_blobs(node)
    try:
        yield blobs
    finally:
        if isinstance(blobs, StreamBlobs):
            blobs.close()


def operator_gold_blobs(node: Node, login: Login | None = None) -> Blobs:
    """The same of the auditor's."""
    return _operators(node, node.gold_blobs, node.gold_blobs, GOLD_BLOBS, login)


@contextlib.contextmanager
def blobs_as_kept(node: Node, login: Login) -> Iterator[tuple[Blobs, Blobs]]:
    """Both, as they are kept, to be examined: of a stream, without what this host's folder holds of it."""
    with tempfile.TemporaryDirectory(dir=node.directory, prefix="copy-") as name:
        folder = Path(name)
        yield (
            _operators(node, node.blobs, folder, BLOBS, login, EXAMINED),
            _operators(node, node.gold_blobs, folder / "audited", GOLD_BLOBS, login, EXAMINED),
        )


def _operators(
    node: Node, root: Path, cache: Path, stream: str, login: Login | None, limit: int | None = None
) -> Blobs:
    if blobs_in(node.directory) == "directory":
        return Blobs(root)
    login = login or (lambda: read_credentials(node.credentials(OPERATOR)))
    return StreamBlobs(cache, ChunkSocket(login(), stream, login=login), limit=limit)


def cache_limit() -> int:
    """Most bytes of blobs that a host keeps whose blobs stand in streams; raises `Misconfigured` for what is no number
    of bytes.
    """
    return whole_number(CACHE_VARIABLE, CACHE_LIMIT, f"of bytes, such as {CACHE_LIMIT}")


def choose_back_end(node: Node, wanted: str | None) -> None:
    """Have the blobs of a directory stand where it is wanted, from its server's next start on; None: where they do.

    Raises `Misconfigured` for a way back.
    """
    if wanted == "directory" and blobs_in(node.directory) != "directory":
        raise Misconfigured(
            f"The blobs of {node.directory} stand in streams, out of which nothing is taken: leave --blobs directory "
            "out, or export the runs and import them into another --dir."
        )
    if wanted == "stream" and blobs_in(node.directory) == "directory":
        node.nats_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(blobs_file(node.directory), "moving")


def move_into_streams(node: Node, say: Callable[[str], None]) -> None:
    """Upload the blobs of a directory that are to stand in streams, before anything is up that could need them. A move
    that was broken off goes on.
    """
    if blobs_in(node.directory) != "moving":
        return
    for root, stream in ((node.blobs, BLOBS), (node.gold_blobs, GOLD_BLOBS)):
        blobs = StreamBlobs(root, ChunkSocket(read_credentials(node.credentials(OPERATOR)), stream))
        paths = sorted(blobs.files())
        for number, path in enumerate(paths, 1):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == path.name:  # a damaged one is put anew by whoever has it
                blobs.upload(path.name, data)
            if number % 100 == 0 or number == len(paths):
                say(f"{number:,} of {len(paths):,} blobs are in the stream {stream}.")
    write_private(blobs_file(node.directory), "stream")
    if issuing.find_issued(node.directory) and (changed := issuing.say_where_blobs_are(node.directory)):
        say(f"Copy the bundles in {changed[0].parent} to their hosts anew: they say that blobs stand in streams.")
