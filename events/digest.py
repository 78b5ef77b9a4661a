"""SHA-256 by the million: with OpenSSL 3 a copied state takes half of the time of a new one."""

import hashlib

_EMPTY = hashlib.sha256()


def sha256(data: bytes) -> bytes:
    """The SHA-256 of these bytes, 32 of them."""
    state = _EMPTY.copy()
    state.update(data)
    return state.digest()
