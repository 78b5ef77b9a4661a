"""The runner of rollouts as executors and the auditor have it: a scaffold must not see which of them asks."""

import tempfile
from pathlib import Path

from runtime.log.questions import Asking
from runtime.policies.questions import AskedPolicy
from runtime.rollouts.runner import RolloutRunner
from services.host.context import Context
from services.host.settings import scaffold_limits


def open_asking(context: Context) -> Asking:
    """A connection by which this service asks others. For one thread."""
    return Asking(context.connection.credentials, context.connection.login)


def open_policy(context: Context, asking: Asking) -> AskedPolicy:
    """The policy, asked over the broker; that it is away is said in the status. For one thread."""
    return AskedPolicy(asking, context.blobs, waits=context.status.waits())


def open_runner(context: Context) -> RolloutRunner:
    """A runner that asks the policy over the broker; its folder has a name that says nothing. For one thread."""
    folder = Path(tempfile.mkdtemp(dir=context.work))
    folder.chmod(0o755)  # what lies in it is for sandboxes of another user too
    policy = open_policy(context, open_asking(context))
    return RolloutRunner(context.blobs, folder, policy, context.scanner, scaffold_limits())
