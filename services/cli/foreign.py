"""Tasks from elsewhere, for `evolog run --from`: a task folder is made of them in the project directory."""

from pathlib import Path

from runtime.effects.tools import SandboxTools
from services.host.node import Node, owner_alone


def adopt(origin: str, task: str, node: Node, sandbox: str) -> str:
    """The path of the task folder that is made of a task from elsewhere; raises `UserError` where none can be.

    `origin` is `sia` or `inspect`.
    """
    owner_alone()  # the folder holds labels
    node.make()
    if origin == "sia":
        from tasks.adapters.sia_directory import adapt

        return str(adapt(Path(task), node.tasks, SandboxTools(_refuse, sandbox)))
    from tasks.adapters.inspect_tasks import adapt as adapt_inspect

    return str(adapt_inspect(task, node.tasks))


def _refuse(prompt: str, max_tokens: int) -> str:
    raise NotImplementedError("an evaluate.py asks no model")
