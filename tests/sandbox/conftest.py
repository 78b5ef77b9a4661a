"""The fixtures of the attacks."""

from tests.sandbox.attacked import host, open_folder, sandbox

__all__ = ["host", "open_folder", "sandbox"]
