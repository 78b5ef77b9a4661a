"""The runner of rollouts as executors and the auditor have it: a scaffold must not see which of them asks."""

import tempfile
from pathlib import Path

from runtime.policies.client import PolicyClient
from runtime.rollouts.runner import RolloutRunner
from services.host.context import Context
from services.host.settings import scaffold_limits


def open_runner(context: Context) -> RolloutRunner:
    """A runner with a client of the policy and a folder of its own, whose name says nothing; for one thread."""
    folder = Path(tempfile.mkdtemp(dir=context.work))
    folder.chmod(0o755)  # what lies in it is for sandboxes of another user too
    policy = PolicyClient(context.node.policy_url(), context.policy_token(), waits=context.status.waits())
    return RolloutRunner(context.blobs, folder, policy, context.scanner, scaffold_limits())
