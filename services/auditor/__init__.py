"""The auditor: scores candidates by what the task is for, on the stream GOLD, and tells the loop nothing unless a run orders it to.

`service` is the process, and says when a run is audited. `measure` scores pairs of a scaffold and an adapter, and what they are compared
with. `final_table` scores a finished run beside its baselines. `release` is what the loop may be told. It alone reads the labels of test.
"""

from services.auditor.service import serve

__all__ = ["serve"]
