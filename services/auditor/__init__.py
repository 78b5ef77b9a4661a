"""The auditor: scores candidates by what the task is for, on the stream GOLD, and tells the loop nothing unless a run
orders it to.

`service` is the process, and says when a run is audited. `measure` scores pairs of a scaffold and an adapter, and what
they are compared with. `final_table` scores a finished run and its baselines. `release` is what the loop may be told. A
task's gold (`tasks/*/gold.py`), and so the labels of test, is read by `measure` alone, through `tasks/loading.py`. The
stream GOLD is read by the auditor and, for a user's questions, by the operator (`runtime/broker/accounts.py`).
"""
