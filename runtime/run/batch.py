"""What a sealed batch is known by: the service that seals it and the one that trains on it must agree."""

import hashlib
from collections.abc import Sequence


def batch_digest(scored: Sequence[tuple[str, float]]) -> str:
    """SHA-256 over (trajectory, reward) pairs in the batch's order."""
    total = hashlib.sha256()
    for trajectory, reward in scored:
        total.update(f"{trajectory} {reward!r}\n".encode())
    return total.hexdigest()
