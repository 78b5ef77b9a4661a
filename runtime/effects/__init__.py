"""What each effect service does, as functions over values and callables.

They know neither the log nor the archive nor a service. What is recorded comes in as values, and what must be looked up
or recorded on the way comes as callables. So a service performs an effect live, and replay performs it again
(`replay/perform.py`) or swaps its code (`replay/swap.py`), by the same lines.
"""
