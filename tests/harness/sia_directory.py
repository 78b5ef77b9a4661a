"""A task directory as SIA has them, small enough to follow by hand: is a number even or odd?"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.policies.interface import Sampled, SampleRequest
from tests.harness.runner import FirstChoicePolicy

COUNT = 24
EVALUATE = """
import argparse, json, pathlib

parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=pathlib.Path)
gen_dir = parser.parse_args().gen_dir
truth_path = pathlib.Path(__file__).resolve().parent.parent / "private" / "answers.json"
truth = {row["id"]: row["answer"] for row in json.loads(truth_path.read_text())}
given = {row["question_id"]: row["solution"] for row in json.loads((gen_dir / "responses.json").read_text())}
right = sum(truth[id] == answer for id, answer in given.items() if id in truth)
(gen_dir / "results.json").write_text(json.dumps({"summary": {"accuracy": SCORE}}))
"""
OF_THOSE_GIVEN = EVALUATE.replace("SCORE", "100 * right / len(given)")
"""An evaluate.py with the hole that those of the package have: what is left out does not count."""
SQUARED = EVALUATE.replace("SCORE", "(right / len(truth)) ** 2")
"""One whose score is no mean over items."""
BLIND = EVALUATE.replace("SCORE", "0.5")
AGENT = """
import argparse, json, os, pathlib, urllib.request

HOSTED_MODEL = "somebody/large-model"

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=pathlib.Path)
parser.add_argument("--working_dir", type=pathlib.Path)
args = parser.parse_args()


def asked(prompt):
    body = {"model": HOSTED_MODEL, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Authorization": "Bearer " + os.environ["HOSTED_API_KEY"], "Content-Type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]


questions = json.loads((args.dataset_dir / "questions.json").read_text())
responses = [{"question_id": row["id"], "solution": asked("Please: " + row["question"])} for row in questions]
(args.working_dir / "responses.json").write_text(json.dumps(responses))
"""
LOOKS = """
import argparse, json, pathlib

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=pathlib.Path)
parser.add_argument("--working_dir", type=pathlib.Path)
args = parser.parse_args()
seen = {str(p.relative_to(args.dataset_dir)): p.read_text() for p in args.dataset_dir.rglob("*") if p.is_file()}
rows = json.loads(seen["questions.json"])
said = json.dumps({"files": sorted(seen), "items": rows, "train": json.loads(seen["train.json"])})
responses = [{"question_id": row["id"], "solution": said} for row in rows]
(args.working_dir / "responses.json").write_text(json.dumps(responses))
"""
"""A program whose answers are what it found."""


PASSENGERS, LABELLED = 48, 40
CSV_EVALUATE = """
import argparse, csv, json, pathlib

parser = argparse.ArgumentParser()
parser.add_argument("--gen-dir", type=pathlib.Path)
gen_dir = parser.parse_args().gen_dir
truth_path = pathlib.Path(__file__).resolve().parent.parent / "private" / "test.csv"
truth = {row["PassengerId"]: row["Transported"] for row in csv.DictReader(truth_path.open())}
given = {row["PassengerId"]: row["Transported"] for row in csv.DictReader((gen_dir / "submission.csv").open())}
right = sum(given.get(id) == answer for id, answer in truth.items())
(gen_dir / "results.json").write_text(json.dumps({"accuracy": right / len(truth)}))
"""
CSV_AGENT = """
import argparse, csv, pathlib
from collections import Counter

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=pathlib.Path)
parser.add_argument("--working_dir", type=pathlib.Path)
args = parser.parse_args()
known = list(csv.DictReader((args.dataset_dir / "train.csv").open()))
asked = list(csv.DictReader((args.dataset_dir / "test.csv").open()))
usual = {
    sleep: Counter(row["Transported"] for row in known if row["CryoSleep"] == sleep).most_common(1)[0][0]
    for sleep in ("False", "True")
}
with (args.working_dir / "submission.csv").open("w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["PassengerId", "Transported"])
    out.writerows((row["PassengerId"], usual[row["CryoSleep"]]) for row in asked)
"""
"""A program that fits a rule to the train table, and hands a whole submission in without asking a model."""


def parity(number: int) -> str:
    """The true answer."""
    return "odd" if number % 2 else "even"


def write(folder: Path, evaluate: str = OF_THOSE_GIVEN, agent: str = AGENT) -> Path:
    """The directory, in a folder."""
    rows = [{"id": number, "question": f"Is {number} even or odd?", "level": "easy"} for number in range(1, COUNT + 1)]
    answers = [{"id": row["id"], "answer": parity(int(str(row["id"])))} for row in rows]
    files = {
        "data/public/task.md": "# Parity\nSay even or odd.\n",
        "data/public/questions.json": json.dumps(rows),
        "data/public/notes/hint.txt": "Look at the last digit.",
        "data/private/answers.json": json.dumps(answers),
        "reference/reference_target_agent.py": agent,
    }
    if evaluate:
        files["data/public/evaluate.py"] = evaluate
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def transported(number: int) -> bool:
    """Whether a passenger was taken: whoever sleeps, but for every fifth passenger, of whom it is the others."""
    return (number % 2 == 0) != (number % 5 == 0)


def write_passengers(folder: Path) -> Path:
    """A directory in the form of Spaceship Titanic: passengers with labels, others without, and a submission.csv."""
    head, labelled = "PassengerId,CryoSleep,Age", range(LABELLED)
    rows = [f"{number:04}_01,{number % 2 == 0},{20 + number}" for number in range(PASSENGERS)]
    files = {
        "data/public/task.md": "# Passengers\nSay who was taken.\n",
        "data/public/evaluate.py": CSV_EVALUATE,
        "data/public/train.csv": [f"{head},Transported", *(f"{rows[n]},{transported(n)}" for n in labelled)],
        "data/public/test.csv": [head, *rows[LABELLED:]],
        "data/public/sample_submission.csv": ["PassengerId,Transported", *(f"{r[:7]},False" for r in rows[LABELLED:])],
        "data/private/test.csv": [
            "PassengerId,Transported",
            *(f"{rows[n][:7]},{transported(n)}" for n in range(LABELLED, PASSENGERS)),
        ],
        "reference/reference_target_agent.py": CSV_AGENT,
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text if isinstance(text, str) else "\n".join(text) + "\n")
    return folder


class ScriptedPolicy(FirstChoicePolicy):
    """A policy that answers each prompt by a function."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        super().__init__()
        self._answer = answer

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `CompletionSource.sample`."""
        self.asked += requests
        texts = [self._answer(request.prompt) for request in requests]
        return [
            Sampled((text,) * request.n, ((0,),) * request.n, ((-0.5,),) * request.n)
            for text, request in zip(texts, requests, strict=True)
        ]
