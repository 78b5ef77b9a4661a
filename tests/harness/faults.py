"""Damage to what is stored."""

from runtime.blobs.directory import Blobs


def damage(blobs: Blobs, digest: str, how: str = "flipped") -> None:
    """Flip one bit in the middle of a blob, or cut off its last byte."""
    (path,) = blobs.root.rglob(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "flipped" else path.read_bytes()[:-1])
