"""The fixtures of the attacks."""

from attacked import host, open_folder, sandbox

__all__ = ["host", "open_folder", "sandbox"]
