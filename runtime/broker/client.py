"""A connection of nats-py's to a server: there within seconds, or given up with a sentence."""

import asyncio
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.client import Client

from events.errors import Unavailable
from runtime.broker.credentials import CONNECT_LIMIT, Credentials

PING_INTERVAL = 10
"""Seconds between two looks whether the server still answers; after three in vain the connection counts as lost."""


async def open_client(
    credentials: Credentials,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Connect as an account, for as long as the server lives: who wants more connects again.

    `on_error` hears what the server refuses, `on_closed` that the connection is lost. Raises `Unavailable` where no
    server answers, or one that does not know the account.
    """
    failures: list[Exception] = []

    async def hear(error: Exception) -> None:
        failures.append(error)
        await on_error(error)

    client = Client()
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            await client.connect(
                credentials.url,
                user=credentials.user,
                password=credentials.password,
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
        await client.close()
        raise Unavailable(_refusal(credentials, wrong, failures)) from wrong
    return client


def _refusal(credentials: Credentials, wrong: Exception, failures: list[Exception]) -> str:
    if isinstance(wrong, TimeoutError):
        return (
            f"What listens at {credentials.url} has not answered within {CONNECT_LIMIT:g} s: it is no nats-server, or "
            "one that hangs."
        )
    if "authorization" in str(wrong).lower():
        return (
            f"The broker at {credentials.url} does not know the account {credentials.user!r} by this password: it is "
            "another directory's, or was started anew since the credentials were copied."
        )
    reason = failures[-1] if failures else wrong
    return f"No broker answers at {credentials.url} ({reason or type(reason).__name__}); `evolog up` starts one."
