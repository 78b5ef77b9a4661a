"""The runner of rollouts as executors and the auditor have it: a scaffold must not see which of them asks."""

import tempfile
from pathlib import Path

from runtime.log.questions import Asking
from runtime.policies.questions import AskedPolicy
from runtime.rollouts.runner import RolloutRunner
from services.host.context import Context
from services.host.settings import scaffold_limits


def open_runner(context: Context) -> RolloutRunner:
    """A runner that asks the policy over the broker; its folder has a name that says nothing. For one thread."""
    folder = Path(tempfile.mkdtemp(dir=context.work))
    folder.chmod(0o755)  # what lies in it is for sandboxes of another user too
    policy = AskedPolicy(Asking(context.connection.credentials, context.connection.login), context.blobs)
    return RolloutRunner(context.blobs, folder, policy, context.scanner, scaffold_limits())
