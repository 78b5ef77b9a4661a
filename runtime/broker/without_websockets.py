"""Loads nats-py without aiohttp, which it takes for websockets where it is installed: nobody here uses them, and each
process would be a quarter of a second later. Import this before nats.
"""

import sys

_loaded = "aiohttp" in sys.modules
if not _loaded:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # as if it were not installed
import nats.aio.transport  # noqa: E402, F401

if not _loaded:
    del sys.modules["aiohttp"]
