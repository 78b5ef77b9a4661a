"""What the auditor measures and an audit reads: a scaffold with an adapter."""

from typing import NamedTuple


class PairKey(NamedTuple):
    """A scaffold and an adapter, by digest; the base model's adapter is empty."""

    scaffold: str
    adapter: str
