"""Rollouts: a scaffold's attempts at items, in a sandbox, with every model call on the log before its answer is
released.

`shard` says what is run together and what comes of each attempt. `runner` runs a shard. `calls` finds, samples, records
or refuses its calls of the model. `host` has a scaffold's process started by `runtime.sandbox.launch` and speaks with
`child`, the script inside it; `program` does so for programs in SIA's style. `openai` lets a scaffold reach the model
by `openai.OpenAI()`. `attempt` is an attempt as read from the log.
"""
