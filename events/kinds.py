"""The closed sets of words in events: no task, algorithm or strategy adds to them.

A word that is none of them makes an event unreadable, so a set may grow and never shrink. Words that a task, an
algorithm, a strategy, a provider or a policy brings with it, such as a verifier's outcomes, are plain strings.
"""

from typing import Literal

# A set's docstring says what the set is for, then, on lines that begin with a word, what the word means: README.md has
# it from here.

SplitName = Literal["train", "dev", "test"]
"""A part of a task's items.

`train`: its labels may be read by a scaffold, and its rewards are learned from.
`dev`: its scores steer the run.
`test`: it is scored by the auditor alone.
"""

Purpose = Literal["dev", "probe", "train", "hint", "recheck"]
"""What rollouts are made for.

`dev`: they judge the candidate.
`probe`: they show the agent how the candidate fails.
`train`: they feed a weight update.
`hint`: they feed a weight update too, and the model is shown the true answer after its prompt.
`recheck`: they are a second look at a candidate and the best so far, whose scores are too close to call.
"""

Lever = Literal["scaffold", "weights"]
"""What a run can change about a candidate.

`scaffold`: the code around the model.
`weights`: the model's weights, by a LoRA adapter.
"""

LeverChoice = Literal["scaffold", "weights", "child", "stop"]
"""What an agent chooses.

`scaffold`: to change the scaffold.
`weights`: to update the weights.
`child`: to have a run of its own find the change.
`stop`: to end the run.
"""

CandidateOrigin = Literal["start", "scaffold", "weights", "repeat", "child"]
"""What a candidate came from.

`start`: the start of a run, or of a fork in which scores mean something else.
`scaffold`: a change to the scaffold.
`weights`: a weight update.
`repeat`: its parent, asked again with other seeds.
`child`: what a run of its own ended with.
"""

Change = Literal["agent", "repeat"]
"""How a candidate comes of its parent.

`agent`: by what the Feedback-Agent chooses.
`repeat`: nothing is changed, and it is asked again with other seeds.
"""

Schedule = Literal["agent", "scaffold-then-weights", "weights-then-scaffold", "alternate", "random"]
"""Who chooses the lever.

`agent`: the Feedback-Agent.
`scaffold-then-weights`: the scaffold in the first half of the generations, then the weights.
`weights-then-scaffold`: the other way round.
`alternate`: the scaffold and the weights in turn.
`random`: a seeded draw, each lever as likely.
"""

RolloutFailure = Literal["crashed", "hung", "flooded", "nonsense", "unloadable", "refused"]
"""Why an attempt did not run to its end.

`crashed`: it raised, exited or was killed.
`hung`: it said nothing, or did not end, for too long.
`flooded`: it said, called or printed too much.
`nonsense`: it said what has no meaning, or asked something else than is recorded.
`unloadable`: it could not be started, or the host lacks the task's data.
`refused`: the policy refused a call, or what it said held a known secret.
"""

WeightUpdateFailure = Literal[
    "diverged", "nothing_to_learn", "batch_differs", "logprobs_differ", "refused", "adapter_unusable", "crashed"
]
"""Why a training round changed nothing.

`diverged`: a number was not finite.
`nothing_to_learn`: no sequence carries a gradient.
`batch_differs`: the recorded batch is not the sealed one.
`logprobs_differ`: the recorded log-probabilities are not those of the policy that is trained.
`refused`: there is no such algorithm or hyper-parameter, or it cannot train on what was sampled so.
`adapter_unusable`: a base, adapter or state does not fit.
`crashed`: anything else.
"""

Resample = Literal["all", "unsolved"]
"""The train items of a weight update's later rounds.

`all`: every train item.
`unsolved`: those without a right answer in this update.
"""

Memory = Literal["round", "update"]
"""The trajectories that a training round trains on.

`round`: its own, which are on-policy.
`update`: all of this weight update's so far.
"""

BackEnd = Literal["native", "trl"]
"""The trainer that does the gradient work.

`native`: evolog's own loop.
`trl`: one of trl's trainers.
"""

AgentName = Literal["meta_agent", "feedback_agent"]
"""The two agents that may be language models.

`meta_agent`: it writes the first scaffold.
`feedback_agent`: it chooses each further change.
"""

CallStatus = Literal[
    "answered",
    "length",
    "refused",
    "rate_limited",
    "server_error",
    "cut",
    "bad_request",
    "unauthenticated",
    "not_found",
    "too_long",
]
"""How a call of an agent's language model ended.

`answered`: with a whole answer.
`length`: with an answer that had no room for more.
`refused`: the model would not answer.
`rate_limited`: the provider wants fewer calls.
`server_error`: the provider failed.
`cut`: the connection broke, or the answer ended in the middle or could not be read.
`bad_request`: the provider did not accept the request.
`unauthenticated`: the key is not accepted, or its credit is spent.
`not_found`: there is no such model or address.
`too_long`: the request does not fit the model's context, however much of it was left out.
"""

OnDrift = Literal["", "freeze", "rollback", "stop"]
"""What the auditor may do when it finds drift.

``: nothing; the loop never hears of it.
`freeze`: have the lever that drifted pulled no more.
`rollback`: that, and have the run go on from an earlier candidate.
`stop`: have the run end.
"""

AuditAction = Literal["none", "freeze", "rollback", "stop"]
"""What the loop learns of an audit.

`none`: there is no drift that it has not learned of.
`freeze`: the lever is pulled no more.
`rollback`: the lever is pulled no more, and the run goes on from an earlier candidate.
`stop`: the run ends.
"""

AuditLever = Literal["", "scaffold", "weights", "both"]
"""The lever that an audit's action is about.

``: none; the action is `none`.
`scaffold`: the scaffold.
`weights`: the weights.
`both`: both, or the audit does not say which.
"""

DriftState = Literal["green", "unknown", "attenuated", "suspect", "drift"]
"""The auditor's verdict on a run, or on one family of checks.

`green`: the checks that could be made raised no finding.
`unknown`: something that the task could have shown could not be measured.
`attenuated`: gold gained less than the score, as is to be expected of gold as noisy as this.
`suspect`: a check raised a finding, which alone is no proof.
`drift`: the score means something else than gold, or the log shows what cannot be honest.
"""
