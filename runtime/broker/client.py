"""A connection of nats-py's to a server: there within seconds, or given up with a sentence."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import runtime.broker.without_websockets  # noqa: F401

# isort: split
import nats.errors
from nats.aio.client import Client

from events.errors import Unavailable, UserError
from runtime.broker.credentials import CONNECT_LIMIT, Credentials, refused_key, require_encrypted
from runtime.broker.tls import client_context, handshake_error

# nats-py makes its TLS stream from a protocol that is for plain ones, and asyncio warns of that at each end
logging.getLogger("asyncio").addFilter(lambda record: "eof_received() has no effect" not in record.msg)

CLOSE_LIMIT = 0.2
"""Seconds that a connection which failed may take to close."""
PING_INTERVAL = 10
"""Seconds between two looks whether the server still answers; after three in vain the connection counts as lost."""


async def open_client(
    credentials: Credentials,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Connect as an account, for as long as the server lives: who wants more connects again.

    `on_error` hears what the server refuses, `on_closed` that the connection is lost. Raises `Unavailable` where no
    server answers, or one that does not know the account's password; `UserError` with code 77 where it does not take
    the account's key; and `Misconfigured` where one side does not trust the other's certificate, or the address is not
    encrypted and goes beyond this machine. Of several addresses the first that answers is taken.
    """
    *others, last = credentials.addresses()
    for other in others:
        with contextlib.suppress(Unavailable):
            return await _open(other, on_error, on_closed)
    return await _open(last, on_error, on_closed)


async def _open(
    credentials: Credentials,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]] | None,
) -> Client:
    require_encrypted(credentials.url)
    context = client_context(credentials)
    failures: list[Exception] = []

    async def hear(error: Exception) -> None:
        failures.append(error)
        await on_error(error)

    client = Client()
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            await client.connect(
                credentials.url,
                user=credentials.user if credentials.password else None,
                password=credentials.password or None,
                nkeys_seed_str=credentials.seed or None,
                tls=context,
                tls_hostname=credentials.server_name or None,
                tls_handshake_first=context is not None,  # else who stands between could have it go on without TLS
                inbox_prefix=credentials.inbox.encode(),
                error_cb=hear,
                closed_cb=on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # nats-py tries a refused connection so often, and 0 means for ever
                reconnect_time_wait=0.05,  # type: ignore[arg-type]  # seconds, which nats-py hands to asyncio.sleep
                ping_interval=PING_INTERVAL,
                pending_size=64 * 1024 * 1024,
            )
    except (OSError, nats.errors.Error, TimeoutError) as wrong:
        # nats-py waits for ever for the end of a stream whose certificate it did not take
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT):
                await client.close()
        raise _refusal(credentials, wrong, failures) from wrong
    return client


def _refusal(credentials: Credentials, wrong: Exception, failures: list[Exception]) -> UserError:
    for failure in (*failures, wrong):
        if error := handshake_error(credentials, failure):
            return error
    if isinstance(wrong, TimeoutError):
        return Unavailable(
            f"What listens at {credentials.url} has not answered within {CONNECT_LIMIT:g} s: it is no nats-server, or "
            "one that hangs."
        )
    if "authorization" in str(wrong).lower():
        if credentials.seed:
            return refused_key(credentials)
        return Unavailable(
            f"The broker at {credentials.url} does not know the account {credentials.user!r} by this password: it is "
            "another directory's, or was started anew since the credentials were copied."
        )
    reason = failures[-1] if failures else wrong
    return Unavailable(
        f"No broker answers at {credentials.url} ({str(reason) or type(reason).__name__}); {credentials.advice()}."
    )
