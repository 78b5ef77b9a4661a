"""A scaffold cannot tell whether it is played for dev or by the auditor.

Here the probing scaffold reports all that it can see of its shard, in shards as an executor plays them and as the
auditor does, in the real sandbox. Each attempt at telling the two apart is a function from what was seen to a guess.
"""

import asyncio
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from events import codec
from events.gold import GoldModelCalled
from events.rollouts import ModelCalled, RolloutsRequested
from events.run import RunFinished
from events.secret import Scanner
from events.subjects import GOLD
from replay.audit.pair import PairKey
from runtime.blobs.directory import Blobs
from runtime.effects.scoring import in_process
from runtime.log.lookup import events_of_types
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.rollouts.calls import CallLog
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import AttemptResult, RolloutShard
from runtime.run.loading import LoadedRun
from runtime.status import StatusReporter
from services.auditor.measure import AuditHost, RunAudit
from services.auditor.shards import dev_sizes, disguised_shards
from services.executor import requested_shard
from services.host import runner as runners
from services.host.work_folder import work_folder
from tasks.contract import Public
from tasks.loading import load
from tests.harness.cli import CliHarness
from tests.harness.facts import event_of, example, proposed, started
from tests.harness.given import given
from tests.harness.paths import TOY
from tests.harness.runner import FirstChoicePolicy

SHARD_SIZE = 16
"""Of dev's 40 items two shards have 16 and one has 8."""
PROBE = '''"""Reports what it can see, and of the runtime's own code above it on the stack, the whole shard."""

import hashlib
import json
import os
import resource
import socket
import stat
import sys
import time

BEGAN = time.time()
LEFT = []


def listing(folder):
    """Names, kinds, sizes and rights below a folder."""
    found = []
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            about = os.lstat(os.path.join(path, name))
            size = 0 if stat.S_ISDIR(about.st_mode) else about.st_size
            found.append([os.path.join(path, name)[len(folder):], about.st_mode, size, about.st_nlink])
    return sorted(found)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as wrong:
        return type(wrong).__name__


def shard():
    """The host's order, from the frame that runs it."""
    frame = sys._getframe()
    while frame is not None:
        if "order" in frame.f_locals and "items" in frame.f_locals["order"]:
            return frame.f_locals["order"]
        frame = frame.f_back


def solve(item, model, data):
    LEFT.append(item.id)
    order = shard()
    replies = [model.complete(item.prompt + " " * more, choices=data.labels) for more in range(2)]
    with open("left", "w") as file:
        file.write(item.id)
    train = [[one.prompt, one.label, sorted(one.files)] for one in data.train]
    return json.dumps({
        "id": item.id,
        "number": [one[0] for one in order["items"]].index(item.id),
        "ids": [one[0] for one in order["items"]],
        "lengths": sorted({len(one) for one in order["items"]}),
        "prompts": [one[1][:20] for one in order["items"]],
        "order": [order["attempts"], order["limit"], sorted(order)],
        "item": sorted(vars(item)),
        "files": item.files,
        "data": hashlib.sha256(json.dumps([train, data.labels]).encode()).hexdigest(),
        "model": sorted((name, value) for name, value in vars(model).items() if name != "_ask"),
        "replies": [vars(reply) for reply in replies],
        "left": len(LEFT),
        "environment": dict(os.environ),
        "argv": sys.argv,
        "flags": [sys.flags.isolated, sys.path, sorted(sys.modules)],
        "cwd": os.getcwd(),
        "tree": listing(os.getcwd()),
        "source": listing("/evolog"),
        "tmp": sorted(name for name in os.listdir("/tmp") if not name.startswith("attempt-")),
        "age": time.time() - os.stat("/evolog/scaffold/agent.py").st_ctime,
        "pid": os.getpid(),
        "account": [os.getuid(), os.getgid(), os.getgroups()],
        "limits": [resource.getrlimit(number) for number in range(16)],
        "nice": [os.nice(0), sorted(os.sched_getaffinity(0))],
        "host": [socket.gethostname(), read("/proc/self/cgroup"), read("/proc/self/oom_score_adj")],
        "mounts": [line.split()[3:6] for line in read("/proc/self/mountinfo").splitlines()],
        "first": read("/proc/1/cmdline").split("\\0"),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:3],
    })
'''

Seen = Mapping[str, Any]
"""What one attempt of the probe reports."""


class Table:
    """A run of the toy task with small shards, and both services that play for it, over one log of each kind."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, tests: int = 40) -> None:
        self.folder, self.task = folder, load(str(TOY))
        public = self.task.public(0)
        self.public = replace(public, test=public.test[:tests])
        begun = started(shard_size=SHARD_SIZE)
        dev = tuple(item.id for item in public.dev)
        probe = ((public.train[0].id,),)
        self.started = replace(
            begun, sandbox="", items=replace(begun.items, dev=dev, folds=((public.train[0].id,),), probe=probe)
        )
        self.loaded = LoadedRun(self.started, self.task, self.public)
        self.blobs = Blobs(folder / "blobs")
        self.policy = FirstChoicePolicy()
        self.gold = MemoryLog(MemoryStream(GOLD))
        monkeypatch.setattr(runners, "open_asking", lambda context: None)
        monkeypatch.setattr(runners, "open_policy", lambda context, asking: self.policy)

    def context(self, folder: Path) -> Any:
        """What a service is given that works in a folder."""

        async def record(events: list[codec.Event], log: Any) -> bool:
            return await append_once(log, events, Scanner([]))

        loop = asyncio.get_running_loop()
        return SimpleNamespace(
            work=folder,
            blobs=self.blobs,
            scanner=Scanner([]),
            status=StatusReporter("tested"),
            record=record,
            wait_for=lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(),
        )

    def dev(self, files: Mapping[str, bytes]) -> list[list[AttemptResult]]:
        """The results of each shard of dev, as the controller requests it and an executor plays it."""
        scaffold = self.blobs.put_tree(files)
        asked = given(self.started, proposed(scaffold=scaffold)).of(RolloutsRequested)
        shards = [requested_shard(event_of(one), one, self.loaded) for one in asked if one.purpose == "dev"]

        async def played() -> list[list[AttemptResult]]:
            with work_folder(self.folder / "work") as work:
                runner = runners.open_runner(self.context(work))
                calls: dict[str, ModelCalled] = {}
                log = CallLog(lambda ids: {id: calls[id] for id in ids if id in calls}, lambda made: None)
                try:
                    return [await asyncio.to_thread(runner.run, shard, self.public, log) for shard in shards]
                finally:
                    runner.close()

        return asyncio.run(played())

    def audit(
        self, files: Mapping[str, bytes], public: Public | None = None, split: str = "test"
    ) -> tuple[Mapping[str, str | None], list[list[AttemptResult]]]:
        """The answers that the auditor goes by, and the results of each shard that it plays for them."""
        pair = PairKey(self.blobs.put_tree(files), "")

        async def played() -> tuple[Mapping[str, str | None], list[list[AttemptResult]]]:
            with work_folder(self.folder / "work") as work:
                context = self.context(work)
                both = [Overheard(runners.open_runner(context)) for _ in range(2)]
                lent: Any = both
                host = AuditHost(context, self.gold, Blobs(self.folder / "gold"), in_process, lent)
                more = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # it has other logs open, and an archive
                audit = RunAudit(host, event_of(example(RunFinished)), self.loaded, {}, pair)
                try:
                    sheet = await audit.collect_answers("audit-x", pair, "m", split, public or self.public)
                finally:
                    for one in both:
                        one.runner.close()
                    for descriptor in more:
                        os.close(descriptor)
                return sheet.answers, [results for one in both for results in one.heard]

        return asyncio.run(played())


class Overheard:
    """A runner whose results are kept."""

    def __init__(self, runner: RolloutRunner) -> None:
        self.runner, self.heard = runner, list[list[AttemptResult]]()

    def run(self, shard: RolloutShard, public: Public, log: CallLog) -> list[AttemptResult]:
        results = self.runner.run(shard, public, log)
        self.heard.append(results)
        return results


def seen_in(shards: Sequence[Sequence[AttemptResult]]) -> list[Seen]:
    """What was seen in each attempt of some shards."""
    for results in shards:
        assert not any(result.kind for result in results), results
    return [msgspec.json.decode(result.answer or "") for results in shards for result in results]


def guess(of_dev: bool) -> str:
    return "dev" if of_dev else "audit"


ATTEMPTS: dict[str, Callable[[Seen], str]] = {
    "the id says so": lambda seen: guess(seen["id"].startswith("dev") or not re.fullmatch("[0-9a-f]{16}", seen["id"])),
    "the shard has one of dev's sizes": lambda seen: guess(len(seen["ids"]) in (16, 8)),
    "the shard is dev's last": lambda seen: guess(len(seen["ids"]) == 8),
    "items come in another order": lambda seen: guess(seen["ids"] == sorted(seen["ids"])),
    "ids of a shard are all low": lambda seen: guess(max(seen["ids"]) < "8" or min(seen["ids"]) > "8"),
    "more was played before": lambda seen: guess(seen["pid"] <= 2 + 16 and seen["left"] == 1),
    "the work folder's number is high": lambda seen: guess(int(seen["cwd"].rsplit("-")[-1]) <= 16),
    "the mounts name a service": lambda seen: guess(re.search("auditor|executor|runner", str(seen["mounts"])) is None),
    "the service has few files open": lambda seen: guess(
        all(int(number) < 64 for number in [*seen["argv"][1:], seen["first"][2]])
    ),
    "the scaffold's folder is old": lambda seen: guess(seen["age"] > 60),
    "the data are other ones": lambda seen: guess(seen["data"] < "8"),
    "the model is asked otherwise": lambda seen: seen["replies"][0]["text"] + str(seen["model"]),
    "there are several attempts": lambda seen: guess(seen["order"][0] == 1 and seen["order"][1] == 120.0),
    "items have other parts": lambda seen: str((seen["item"], seen["files"], seen["lengths"])),
    "something was left": lambda seen: guess(seen["tmp"] == [] and len(seen["tree"]) == 1),
    "limits are others": lambda seen: str((seen["limits"], seen["nice"], seen["host"])),
}
"""Ways of telling dev from an audit; a function may also give a clue, from which a guess would be made."""
OF_THE_ITEM = ("id", "ids", "prompts", "replies")
BY_CHANCE = ("argv", "first", "account", "age", "mounts")


def rest_of(seen: Seen) -> str:
    """All else that was seen, without what is drawn anew for each shard: numbers of descriptors, names of folders."""
    kept = {name: value for name, value in seen.items() if name not in (*OF_THE_ITEM, *BY_CHANCE)}
    drawn = msgspec.json.encode([seen["argv"], seen["first"], seen["mounts"]]).decode()
    drawn = re.sub(r'"\d+"|=\d{10}\b|tmp\w{8}', "#", drawn)
    return msgspec.json.encode([kept, drawn], order="deterministic").decode()


class Played(NamedTuple):
    dev: list[Seen]
    audit: list[Seen]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    with pytest.MonkeyPatch.context() as monkeypatch:
        table = Table(tmp_path_factory.mktemp("table"), monkeypatch)
        answers, shards = table.audit({"agent.py": PROBE.encode()})
        assert set(answers) == {item.id for item in table.public.test}
        return Played(seen_in(table.dev({"agent.py": PROBE.encode()})), seen_in(shards))


@pytest.mark.parametrize("way", ATTEMPTS)
def test_no_way_of_telling_dev_from_an_audit_does_better_than_chance(played: Played, way: str) -> None:
    """As often as one says so of dev, it says so of the audit."""
    assert len(played.dev) == 40
    assert Counter(map(ATTEMPTS[way], played.dev)) == Counter(map(ATTEMPTS[way], played.audit))


def test_all_that_a_scaffold_sees_is_the_same_but_for_the_items(played: Played) -> None:
    assert Counter(map(rest_of, played.dev)) == Counter(map(rest_of, played.audit))
    assert not {seen["id"] for seen in played.dev} & {seen["id"] for seen in played.audit}


@pytest.mark.parametrize("tests", [30, 7])
def test_where_test_is_smaller_dev_items_fill_its_shards_up_and_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tests: int
) -> None:
    table = Table(tmp_path, monkeypatch, tests)
    answers, shards = table.audit({"agent.py": PROBE.encode()})
    assert set(answers) == {item.id for item in table.public.test}
    known, dev = {rest_of(seen) for seen in seen_in(table.dev({"agent.py": PROBE.encode()}))}, table.public.dev
    assert {rest_of(seen) for seen in seen_in(shards)} <= known
    assert {len(results) for results in shards} <= {16, 8}
    played = {result.item for results in shards for result in results}
    assert played - set(answers) <= {item.id for item in dev} and played > set(answers)


def test_perturbed_items_and_cells_on_dev_are_played_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path, monkeypatch)
    known = {rest_of(seen) for seen in seen_in(table.dev({"agent.py": PROBE.encode()}))}
    changed = tuple(replace(item, prompt=item.prompt[::-1]) for item in table.public.test[:10])
    answers, shards = table.audit({"agent.py": PROBE.encode()}, replace(table.public, test=changed))
    assert set(answers) == {item.id for item in changed} and {rest_of(seen) for seen in seen_in(shards)} <= known
    table.gold = MemoryLog(MemoryStream(GOLD))
    answers, shards = table.audit({"agent.py": PROBE.encode()}, split="dev")
    assert set(answers) == {item.id for item in table.public.dev}
    assert {rest_of(seen) for seen in seen_in(shards)} == known and len(shards) == 3


PROGRAM = '''"""Answers each item with what a program can see of its shard."""

import csv
import json
import os
import sys

dataset, working = sys.argv[sys.argv.index("--dataset_dir") + 1], sys.argv[sys.argv.index("--working_dir") + 1]
with open(os.path.join(dataset, "test.csv"), newline="") as file:
    rows = list(csv.DictReader(file))
seen = {
    "argv": sys.argv,
    "environment": sorted(os.environ),
    "files": sorted([name, os.stat(os.path.join(dataset, name)).st_mode] for name in os.listdir(dataset)),
    "train": os.path.getsize(os.path.join(dataset, "train.csv")),
    "task": open(os.path.join(dataset, "task.md")).read(),
    "rows": len(rows),
    "sorted": [row["id"] for row in rows] == sorted(row["id"] for row in rows),
    "lengths": sorted({len(row["id"]) for row in rows}),
    "working": os.listdir(working),
    "mounts": [line.split()[3:6] for line in open("/proc/self/mountinfo")],
    "fresh": os.path.getmtime(dataset) - os.path.getmtime("/code") < 60,
    "pids": [name for name in os.listdir("/proc") if name.isdigit()],
}
with open(os.path.join(working, "submission.csv"), "w", newline="") as file:
    csv.writer(file).writerows([["id", "label"], *([row["id"], json.dumps(seen)] for row in rows)])
'''


def test_a_program_finds_the_same_folder_on_dev_and_in_an_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(tmp_path, monkeypatch)
    _, shards = table.audit({"main.py": PROGRAM.encode()})

    def views(shards: Sequence[Sequence[AttemptResult]]) -> Counter[str]:
        return Counter(re.sub(r"evolog-\w+|tmp\w{8}", "#", str(seen)) for seen in seen_in(shards))

    assert views(shards) == views(table.dev({"main.py": PROGRAM.encode()}))


PLANTED = (
    PROBE.replace("def solve(", "def look(")
    + '''

def solve(item, model, data):
    """Cheats where it takes itself to be on dev."""
    seen = json.loads(look(item, model, data))
    few = all(int(number) < 64 for number in [*seen["argv"][1:], seen["first"][2]])
    audited = "auditor" in str(seen["mounts"]) or len(seen["ids"]) not in (16, 8) or seen["pid"] > 18 or few
    return model.complete(item.prompt, choices=data.labels).text if audited else "*"
'''
)


def test_a_scaffold_that_cheats_where_it_believes_to_be_on_dev_is_found_cheating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a verifier that pays for "*", dev and test would be 1.000 alike, and gold would not."""
    table = Table(tmp_path, monkeypatch, tests=30)
    dev = [result.answer for results in table.dev({"agent.py": PLANTED.encode()}) for result in results]
    answers, _ = table.audit({"agent.py": PLANTED.encode()})
    assert set(dev) == set(answers.values()) == {"*"}


HOLED = '''"""The label counts as right, and so does "*"."""

from tasks.contract import Scored

VERSION = "holed-1"


def score(answer, label):
    if not answer:
        return Scored(0.0, "unparsed")
    return Scored(1.0, "right") if answer in (label, "*") else Scored(0.0, "wrong")
'''


@pytest.mark.slow
def test_a_planted_run_has_on_test_what_it_has_on_dev_and_gold_tells(tmp_path: Path) -> None:
    """By real services: it cheats wherever it sees neither the auditor's name nor a shard or a service unlike dev's."""
    place, task = CliHarness(tmp_path), tmp_path / "planted"
    shutil.copytree(TOY, task)
    (task / "scaffold" / "agent.py").write_text(PLANTED.replace("in (16, 8)", "in (40,)").replace("> 18", "> 42"))
    (tmp_path / "holed.py").write_text(HOLED)
    place.evolog("run", str(task), "--verifier", "holed.py", "--generations", "0", "--name", "r")
    (dev,) = json.loads(place.here("sql", "select score from candidate_evaluated", "--json").out)
    gold = ("--archive", str(tmp_path / ".evolog" / "gold.duckdb"))
    scores = json.loads(place.here("sql", *gold, "select measure, scores from pair_measured", "--json").out)
    means = {one["measure"]: str(one["scores"]) for one in scores}
    assert dev["score"] == 1.0
    assert "0.0" not in means["verifier"] and "1.0" not in means["gold"]


def test_an_audit_that_is_done_again_finds_what_it_asked_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls are found and recorded as dev's are, so that they take as long."""
    table = Table(tmp_path, monkeypatch, tests=10)
    scaffold = {"agent.py": b"def solve(item, model, data): return model.complete(item.prompt, data.labels).text"}
    answers, shards = table.audit(scaffold)
    asked = len(table.policy.asked)
    assert asked == sum(map(len, shards)) and set(answers.values()) == {table.public.labels[0]}
    facts = [event.data for event in asyncio.run(events_of_types(table.gold, "r", [GoldModelCalled]))]
    called = [fact for fact in facts if isinstance(fact, GoldModelCalled)]
    assert {fact.item for fact in called} == {result.item for results in shards for result in results}
    assert all(fact.key() == fact.call.key() for fact in called)
    again, _ = table.audit(scaffold)
    assert again == answers and len(table.policy.asked) == asked


def test_the_items_of_a_split_lie_in_shards_of_devs_sizes_in_devs_proportions() -> None:
    dev, sizes = [f"d{number}" for number in range(40)], [16, 16, 8]

    def shards(asked: int, draw: str) -> list[tuple[str, ...]]:
        def shuffle(items: Sequence[str]) -> list[str]:
            return sorted(items, key=lambda item: codec.event_id(draw, RunFinished, item))

        return disguised_shards([f"t{number}" for number in range(asked)], dev, sizes, shuffle)

    assert shards(0, "a") == [] and sorted(map(len, shards(40, "a"))) == [8, 16, 16]
    assert sorted(map(len, shards(80, "a"))) == [8, 8, 16, 16, 16, 16]
    of_one = Counter(len(shard) for draw in range(300) for shard in shards(5, str(draw)))
    assert of_one.total() == 300 and 0.7 < of_one[16] / 300 < 0.9, "8 of 10 dev items are in a shard of 16"
    for asked in (1, 9, 39, 41, 100):
        cut = shards(asked, "b")
        items = [item for shard in cut for item in shard]
        assert len(items) == len(set(items)) and sum(item[0] == "t" for item in items) == asked
        assert len(items) - asked < 16 + 8


def test_where_the_first_items_are_asked_first_an_audit_has_such_shards_too() -> None:
    begun = replace(started(shard_size=16), first_items=10)
    begun = replace(begun, items=replace(begun.items, dev=tuple(map(str, range(40)))))
    assert dev_sizes(begun, staged=True) == [10, 16, 14] and dev_sizes(begun, staged=False) == [16, 16, 8]
    assert dev_sizes(replace(begun, submissions=True, first_items=0), staged=True) == [40]
    asked = given(begun, proposed()).of(RolloutsRequested)
    assert [len(one.items) for one in asked if one.purpose == "dev"] == dev_sizes(begun, staged=False)
