"""The reward that a run learns from: the share of numbers for which a program gives what it should.

A program is what a candidate wrote, so it runs in the sandbox. What it should give never goes there: the sandbox sends
back what came out, and that is compared here.
"""

import json

from tasks.contract import Item, Scored, Tools

from . import data

VERSION = "outputs-1"
OUTCOMES = {
    "right": "every output is right",
    "wrong": "an output is not what it should be",
    "crashed": "the program does not run to its end",
    "unparsed": "there is no program",
}
INPUTS = (-7, -1, 0, 2, 5, 11, 40)
RUNNER = """
import json
from candidate import f
print(json.dumps([f(x) for x in json.load(open("inputs.json"))]))
"""
_OUTPUTS: dict[str, tuple[list[object], str]] = {}
"""What programs gave, and why those that failed did: many attempts write the same one."""


def score(item: Item, answer: str | None, label: str, tools: Tools) -> Scored:
    """The share of `INPUTS` whose output is right."""
    if not answer or len(answer) > 200:
        return Scored(0.0, "unparsed")
    if answer not in _OUTPUTS:
        _OUTPUTS[answer] = run(answer, tools)
    outputs, failure = _OUTPUTS[answer]
    if failure:
        return Scored(0.0, "crashed", failure)
    right = [given == data.value(label, x) for x, given in zip(INPUTS, outputs, strict=True)]
    wrong = [f"{x} gives {given!r:.40}" for x, given, good in zip(INPUTS, outputs, right, strict=True) if not good]
    return Scored(sum(right) / len(right), "wrong" if wrong else "right", "; ".join(wrong))


def run(program: str, tools: Tools) -> tuple[list[object], str]:
    """The outputs of a program for `INPUTS`, or why there are none."""
    files = {
        "candidate.py": f"def f(x):\n    return {program}\n",
        "inputs.json": json.dumps(INPUTS),
        "main.py": RUNNER,
    }
    result = tools.run(files, ["main.py"], seconds=5)
    if result.failure or result.exit_code:
        return [], result.failure or (result.errors.strip().splitlines() or ["no message"])[-1]
    try:
        outputs = json.loads(result.output)
    except ValueError:
        outputs = None
    if not isinstance(outputs, list) or len(outputs) != len(INPUTS):
        return [], "it printed something else than its outputs"
    return outputs, ""
