"""The closed sets of words in events: no task, algorithm or strategy adds to them.

A word that is none of them makes an event unreadable, so a set may grow and never shrink. Words that a task, an
algorithm, a strategy, a provider or a policy brings with it, such as a verifier's outcomes, are plain strings.
"""

from typing import Literal

SplitName = Literal["train", "dev", "test"]
"""`train` has labels that a scaffold may read, `dev` steers the run, `test` is scored by the auditor alone."""

Purpose = Literal["dev", "probe", "train", "hint"]
"""Why rollouts are made: `dev` judges the candidate, `probe` shows the agent how it fails, `train` feeds a weight
update. `hint` feeds one too, and there the model is shown the true answer after its prompt.
"""

Lever = Literal["scaffold", "weights"]
"""What a run can change about a candidate: the code around the model, or the model's weights."""

LeverChoice = Literal["scaffold", "weights", "stop"]
"""What an agent chooses: a lever, or to end the run."""

CandidateOrigin = Literal["start", "scaffold", "weights"]
"""What a candidate came from: the start of a run or of a fork, or the lever that was pulled."""

RolloutFailure = Literal["crashed", "hung", "flooded", "nonsense", "unloadable", "refused"]
"""Why an attempt did not run to its end.

`crashed`: it raised, exited or was killed. `hung`: it said nothing for too long. `flooded`: it said, called or printed
too much. `nonsense`: what it said has no meaning. `unloadable`: it could not be started. `refused`: by the policy, or
for a secret that it held.
"""

WeightUpdateFailure = Literal[
    "diverged", "nothing_to_learn", "batch_differs", "logprobs_differ", "refused", "adapter_unusable", "crashed"
]
"""Why a training round changed nothing.

`diverged`: a number was not finite. `nothing_to_learn`: no sequence carries a gradient. `batch_differs`: the recorded
batch is not the sealed one. `logprobs_differ`: the trainer's log-probabilities are not the policy's. `refused`: there
is no such algorithm or hyper-parameter. `adapter_unusable`: a base, adapter or state does not fit. `crashed`: anything
else.
"""

Resample = Literal["all", "unsolved"]
"""The train items of later rounds: all, or those without a right answer in this update."""

Memory = Literal["round", "update"]
"""Which trajectories a round trains on: its own (on-policy), or all of this update's so far."""

BackEnd = Literal["native", "trl"]
"""The trainer that does the gradient work: evolog's own loop, or one of trl's."""

AgentName = Literal["meta_agent", "feedback_agent"]
"""The two agents that may be language models."""

CallStatus = Literal[
    "answered", "length", "refused", "rate_limited", "server_error", "cut", "bad_request", "unauthenticated"
]
"""How a call of an agent's language model ended: with an answer, without room for more of it (`length`), refused, or by
a failure.
"""

OnDrift = Literal["", "freeze", "rollback", "stop"]
"""What the auditor may do when it finds drift; empty: nothing, and the loop never hears of it."""

AuditAction = Literal["none", "freeze", "rollback", "stop"]
"""What the loop learns of an audit.

`none`: there is no drift that it has not learned of. `freeze`: the lever is pulled no more. `rollback`: so too, and the
run goes on from an earlier candidate. `stop`: the run ends.
"""

AuditLever = Literal["", "scaffold", "weights", "both"]
"""The lever that an audit's action is about; empty for `none`."""

DriftState = Literal["green", "suspect", "drift"]
"""The auditor's verdict on a run."""
