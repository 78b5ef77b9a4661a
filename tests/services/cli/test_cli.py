"""Every command as a user types it, on one toy run: what stands on stdout, what on stderr, and the exit code."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from events.catalogue import CAPABLE_CONSUMERS, SERVICES
from events.subjects import check_run_name
from runtime.run.order import RunOrder, default_name
from services.cli.main import main
from services.host.orders import services_up
from tasks.loading import EXTRAS
from tests.harness.cli import CLI, CliHarness, CommandResult, one_sentence
from tests.harness.few import few
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE, wait_until

pytest.importorskip("torch")

KIND = '''"""Half for everything."""

from tasks.contract import Scored

VERSION = "kind-1"


def score(answer: str | None, label: str) -> Scored:
    return Scored(0.5, "wrong")
'''
COUNT = "select state, count(*) as n from runs group by all"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[CliHarness, CommandResult]:
    """A run with both levers, for which the services were started and stopped again; its task is named by a relative
    path.
    """
    place = CliHarness(tmp_path_factory.mktemp("cli"))
    shutil.copytree(TOY, place.folder / "toy", ignore=shutil.ignore_patterns("__pycache__"))
    return place, place.evolog("run", "./toy", "--name", "toy-a")


@pytest.fixture(scope="module")
def stopped(ran: tuple[CliHarness, CommandResult], tmp_path_factory: pytest.TempPathFactory) -> CliHarness:
    """A copy of it, where nothing runs."""
    place = CliHarness(tmp_path_factory.mktemp("stopped"))
    shutil.copytree(ran[0].node.directory, place.node.directory, ignore=shutil.ignore_patterns("*.sock"))
    return place


@pytest.fixture(scope="module")
def place(ran: tuple[CliHarness, CommandResult], stopped: CliHarness) -> Iterator[CliHarness]:
    """The same, with the services up."""
    ran[0].up()
    yield ran[0]
    ran[0].down()


@pytest.fixture
def empty(tmp_path: Path) -> CliHarness:
    return CliHarness(tmp_path / "place")


def test_run_prints_generations_and_the_table_on_stdout(ran: tuple[CliHarness, CommandResult]) -> None:
    _, said = ran
    assert all(" waits for " in line or line.startswith("nothing for ") for line in said.err.splitlines())
    for words in (
        "run toy-a: task",
        "  1  scaffold  dev 0.7",
        "  2  weights   dev 0.7",
        "toy-a: all 2 generations are done",
        "│ final",
        "rollouts, ",
    ):
        assert words in said.out, words


def test_without_up_sql_reads_the_file(stopped: CliHarness) -> None:
    assert json.loads(stopped.evolog("sql", "select run from runs", "--json").out) == [{"run": "toy-a"}]


def test_without_up_what_is_recorded_can_be_read(stopped: CliHarness) -> None:
    assert [row["run"] for row in json.loads(stopped.evolog("ls", "--json").out)["runs"]] == ["toy-a"]
    shown = json.loads(stopped.evolog("show", "toy", "--json").out)
    (row,) = json.loads(stopped.here("sql", "select state, score from runs", "--json").out)
    (listed,) = json.loads(stopped.here("ls", "--json").out)["runs"]
    assert (shown["state"], shown["audit"]) == (listed["state"], listed["audit"]) == ("finished", "done")
    assert shown["state"] == row["state"] and shown["score"] == listed["score"] == row["score"]
    assert not stopped.node.alive()


@pytest.mark.parametrize("verb", ["watch", "services"])
def test_without_up_there_is_nothing_to_watch(stopped: CliHarness, verb: str) -> None:
    one_sentence(stopped.here(verb, code=69), "No evolog is running in", "`evolog up --dir")


@pytest.mark.parametrize("command", [("ls",), ("show", "r"), ("replay", "r"), ("diff", "r", "s")])
def test_where_there_is_no_log_the_commands_that_read_one_say_so(empty: CliHarness, command: tuple[str, ...]) -> None:
    one_sentence(empty.here(*command, code=4), "There is no log in")


def test_without_up_there_is_nothing_to_stop(stopped: CliHarness) -> None:
    one_sentence(stopped.here("down", code=4), "nothing to stop")


def test_without_an_archive_sql_says_so(empty: CliHarness) -> None:
    one_sentence(empty.here("sql", "from runs", code=4), "archive")


def test_up_twice_is_refused_with_the_process(place: CliHarness) -> None:
    one_sentence(
        place.evolog("up", code=75), f"already running in {place.node.directory} (process {place.node.holder()})"
    )


def test_ls(place: CliHarness) -> None:
    assert "toy-a" in place.evolog("ls").out
    listed = json.loads(place.evolog("ls", "--json").out)
    (row,) = (row for row in listed["runs"] if row["run"] == "toy-a")
    assert listed["version"] == 2 and (row["state"], row["seed"]) == ("finished", 0) and row["score"] > 0.7


def test_show_takes_a_prefix_that_is_unique(place: CliHarness, other: CommandResult) -> None:
    assert "best_of_n, up to 3 rounds" in place.evolog("show", "toy-a").out
    one_sentence(
        place.here("show", "toy", code=2), "'toy' begins the names of 2 runs", "toy-a, toy2", "give more of it"
    )
    report = json.loads(place.here("show", "toy2", "--json").out)
    assert (report["version"], report["run"]) == (2, "toy2")
    assert (report["state"], report["audit"]) == ("budget exhausted", "done")
    one_sentence(place.here("show", "nobody", code=4), "no run 'nobody'", "`evolog ls`")


def test_watch_prints_a_line_an_event(place: CliHarness) -> None:
    lines = place.evolog("watch", "toy-a", "--no-follow").out.splitlines()
    assert "run_started" in lines[0] and "run_finished" in lines[-1]
    last = int(lines[-1].split()[0])
    events = [
        json.loads(line) for line in place.here("watch", "--no-follow", "--json", "--since", str(last)).out.splitlines()
    ]
    assert [event["sequence"] for event in events] == list(range(last, last + len(events)))
    assert events[0]["event"]["specversion"] == "1.0"
    one_sentence(place.here("watch", "nobody", code=4), "no run 'nobody'")


def test_services_gives_each_process_and_what_waits_for_each_service(place: CliHarness) -> None:
    def found() -> Any:
        return json.loads(place.here("services", "--json").out)

    wait_until(lambda: not found()["silent"], "every process answers")
    services = found()["services"]
    assert services["executor"].keys() == {"processes", "pending", "unacknowledged"}
    assert services.keys() == {*SERVICES, *CAPABLE_CONSUMERS} and services["executor"]["processes"] == 2
    assert "│ executor-1 " in place.evolog("services").out


@pytest.mark.parametrize("form", ["table", "json", "ndjson", "csv"])
def test_sql_in_text(place: CliHarness, form: str) -> None:
    text = place.here("sql", "select run, seed from run_started where run = 'toy-a'", "--format", form).out
    match form:
        case "table":
            assert text.split() == ["run", "seed", *[part for part in text.split() if set(part) == {"─"}], "toy-a", "0"]
        case "json":
            assert json.loads(text) == [{"run": "toy-a", "seed": 0}]
        case "ndjson":
            assert [json.loads(line) for line in text.splitlines()] == [{"run": "toy-a", "seed": 0}]
        case _:
            assert list(csv.reader(StringIO(text))) == [["run", "seed"], ["toy-a", "0"]]


def test_sql_in_parquet_and_from_a_file(place: CliHarness) -> None:
    (place.folder / "q.sql").write_text("select run, seed from run_started where run = 'toy-a';\n")
    command = [sys.executable, *CLI, "sql", "-f", "q.sql", "--format", "parquet"]
    with (place.folder / "r.parquet").open("wb") as file:
        subprocess.run(command, cwd=place.folder, env=place.environment, stdout=file, check=True)
    with duckdb.connect() as connection:
        assert connection.execute(f"from '{place.folder}/r.parquet'").fetchall() == [("toy-a", 0)]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("delete from runs", "read-only"),
        ("copy runs to 'x.csv'", "read-only"),
        ("from gold_scored", "gold_scored"),
        ("selec", "syntax error"),
        ("", "found nothing"),
    ],
)
def test_sql_takes_one_question_and_has_no_gold(place: CliHarness, query: str, words: str) -> None:
    said = place.here("sql", query, code=2)
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err
    assert not (place.folder / "x.csv").exists()


def test_sql_wants_a_query_or_a_file(place: CliHarness) -> None:
    one_sentence(place.here("sql", code=2), "Give a query")
    one_sentence(place.here("sql", "-f", "nowhere.sql", code=4), "nowhere.sql")


@pytest.fixture(scope="module")
def other(place: CliHarness) -> CommandResult:
    """A run whose budget ends after the first change."""
    flags = ["--levers", "scaffold", "--budget", "rollouts=336", "--generations", "3", "--json"]
    return place.evolog("run", str(TOY), "--name", "toy2", *flags, code=5)


def test_a_run_that_spends_its_budget_exits_with_5_and_says_so(other: CommandResult) -> None:
    report = json.loads(other.out)
    assert (report["version"], report["reason"], report["rollouts"]) == (2, "budget exhausted", 336)
    assert {cell["cell"] for cell in report["cells"]} >= {"start", "final", "uniform_policy"}
    again = {cell["cell"]: cell for cell in report["cells"] if cell["cell"].endswith("_of_k")}
    vote, best = again["start_vote_of_k"], again["start_best_of_k"]
    assert vote["attempts"] == best["attempts"] == 2 and vote["rollouts"] == 80
    assert best["score"] > vote["score"] and vote["failed"] == best["failed"] == 0
    assert "run toy2: task" in other.err and "  1  scaffold  dev" in other.err


def test_detach_prints_the_name_alone_and_a_name_is_used_once(place: CliHarness) -> None:
    said = place.evolog("run", str(TOY), "--name", "quiet", "--detach", "--generations", "0")
    assert said == (0, "quiet\n", "")
    one_sentence(
        place.here("run", str(TOY), "--name", "quiet", code=2),
        "a run 'quiet' already",
        "--name",
        "`evolog show quiet`",
    )
    assert "run_finished" in place.here("watch", "quiet").out.splitlines()[-1]


@pytest.mark.parametrize("command", few(["run", "ablate"], "run"))
def test_ctrl_c_leaves_the_run_to_the_services(place: CliHarness, command: str) -> None:
    process = place.start(command, str(TOY), "--generations", "0")
    stream = process.stdout if command == "run" else process.stderr
    assert stream
    name = stream.readline().removeprefix("run ").split(":")[0]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"Run {name} goes on in the services, which were up before: `evolog watch {name} --dir" in err
    assert "Traceback" not in err + out
    assert "run_finished" in place.here("watch", name).out.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--budget=euro=3", "--name=a b"])
def test_a_bad_order_is_refused_before_anything_starts(empty: CliHarness, flag: str) -> None:
    one_sentence(empty.here("run", str(TOY), flag, code=2), flag.split("=")[-1])
    assert not empty.node.directory.exists()


def test_a_verifier_that_is_none_is_refused_before_anything_starts(empty: CliHarness) -> None:
    one_sentence(empty.here("run", str(TOY), "--verifier", "kind", code=4), "kind cannot be read as a verifier")
    (empty.folder / "kind.py").write_text("VERSION = 'kind-1'\n")
    one_sentence(
        empty.here("run", str(TOY), "--verifier", "kind.py", code=78),
        "must define one function of score and score_submission",
    )
    assert not empty.node.directory.exists()


@pytest.mark.slow
def test_a_run_may_be_judged_by_another_verifier(place: CliHarness) -> None:
    (place.folder / "kind.py").write_text(KIND)
    place.evolog("run", str(TOY), "--verifier", "kind.py", "--generations", "0", "--name", "kind")
    shown = json.loads(place.evolog("sql", "from rewards where run = 'kind'", "--json").out)
    assert shown and all(row["best"] == 0.5 for row in shown)
    assert json.loads(place.evolog("show", "kind", "--json").out)["score"] == 0.5


def test_a_budget_below_the_first_evaluation_is_refused(place: CliHarness) -> None:
    said = place.here("run", str(TOY), "--budget", "rollouts=100", code=2)
    one_sentence(said, "100 rollouts", "which plays 168", "--budget rollouts=168")


@pytest.mark.parametrize("task", ["lawbench", ".", "my tasks/toy.v2", "/x/" + "y" * 99])
def test_every_task_gives_a_name_that_a_run_can_have(task: str) -> None:
    order = RunOrder(task=task, levers="both", seed=0, generations=None, budget="")
    assert check_run_name(default_name(order)).count("-s0-") == 1


def test_doctor_says_what_is_there_and_what_is_not(empty: CliHarness) -> None:
    said = empty.evolog("doctor", "--json", EVOLOG_NATS_SERVER="/nowhere", code=78)
    findings = {finding["what"]: finding for finding in json.loads(said.out)["findings"]}
    assert json.loads(said.out)["version"] == 1
    assert (
        findings["python"]["ok"]
        and not findings["nats-server"]["ok"]
        and "/nowhere" in findings["nats-server"]["found"]
    )
    lines = empty.here("doctor", EVOLOG_NATS_SERVER="/nowhere", code=78).out.splitlines()
    assert {line[:4] for line in lines} == {"ok  ", "MISS", "note"}


@pytest.fixture
def core(empty: CliHarness) -> CliHarness:
    """As where evolog is installed without its extras."""
    (empty.folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({sorted(EXTRAS)}))\n")
    empty.environment["PYTHONPATH"] += f"{os.pathsep}{empty.folder}"
    return empty


def test_without_the_extras_what_needs_them_names_them(core: CliHarness) -> None:
    one_sentence(core.evolog("run", "nosuchtask", code=4), "There is no task 'nosuchtask'")
    for command in (("run", str(TOY)), ("ablate", str(TOY)), ("run", "lawbench"), ("data", "get", "lawbench")):
        one_sentence(core.evolog(*command, code=78), "numpy", "pip install 'evolog[policy,tasks]'")
    assert not core.node.directory.exists()


@pytest.mark.parametrize("module", ["scipy.sparse", "own_module"])
def test_a_module_that_is_missing_is_a_sentence_if_an_extra_brings_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("services.host.reports.list_runs", fail)
    result = CliRunner().invoke(main, ["ls"])
    if module == "own_module":
        assert isinstance(result.exception, ModuleNotFoundError)
    else:
        assert result.exit_code == 78 and "scipy.sparse is not installed" in result.output


def test_the_project_directory_is_its_owners_alone(ran: tuple[CliHarness, CommandResult]) -> None:
    """Whoever else looks into it finds nothing: the files that a scaffold's own account reads are below it."""
    node = ran[0].node
    assert node.directory.stat().st_mode & 0o777 == 0o700
    open_files = [path for path in node.directory.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert [path for path in open_files if not path.is_relative_to(node.directory / "work")] == []


def test_a_service_does_not_take_the_users_packages_for_its_own(empty: CliHarness) -> None:
    for package in ("services", "tasks", "events"):
        (empty.folder / package).mkdir()
        (empty.folder / package / "__init__.py").touch()
    said = empty.evolog("service", "executor", code=4)
    assert "No credentials at" in said.err and "No module" not in said.err


@pytest.mark.slow
def test_services_stay_up_for_a_run_that_is_not_finished(empty: CliHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", empty.environment["XDG_CACHE_HOME"])
    sentences: list[str] = []
    with services_up(empty.node, sentences.append):
        empty.evolog("run", str(TOY), "--name", "second", "--levers", "scaffold", "--generations", "1", "--detach")
    try:
        assert empty.node.alive()
        assert "the services go on for second, not finished; `evolog down --dir" in sentences[0]
        empty.wait_until_audited("second")
    finally:
        empty.evolog("down")


@pytest.mark.slow
def test_an_ablation_whose_runs_fail_says_so(place: CliHarness) -> None:
    shutil.copytree(TOY, place.folder / "mute", ignore=shutil.ignore_patterns("__pycache__"))
    (place.folder / "mute/scaffold/agent.py").write_text("def solve(item, model, data):\n    return 5\n")
    said = place.evolog("ablate", "./mute", "--seeds", "1", "--generations", "0", code=1)
    (row,) = (line for line in said.out.splitlines() if "weights only" in line)
    assert row.count(" - ") == 2 and "0.0000" not in row
    assert said.err.count("failed: the first scaffold could not be evaluated") == 3


@pytest.mark.slow
def test_an_ablation_asks_the_start_again_with_as_many_rollouts(place: CliHarness) -> None:
    said = place.evolog("ablate", str(TOY), "--seeds", "1", "--generations", "1", "--json")
    *levers, again = json.loads(said.out)
    assert [one["levers"] for one in levers] == [["scaffold"], ["weights"], ["scaffold", "weights"]]
    assert again["strategy"] == "best_of_k" and len(again["generations"]) > 1
    assert 0 < again["rollouts"] <= levers[-1]["rollouts"] and again["vote"]["attempts"] > 40
    assert {row["lever"] for row in again["generations"]} == {"start", "repeat"}

    resumed = place.evolog("ablate", str(TOY), "--seeds", "1", "--generations", "1", "--json", "--resume")
    assert json.loads(resumed.out) == [*levers, again]
    assert [f"{one['run']} was ordered alike" in resumed.err for one in (*levers, again)] == [True] * 4


@pytest.mark.slow
def test_an_ablation_that_was_interrupted_goes_on(place: CliHarness) -> None:
    flags = (str(TOY), "--seeds", "1", "--first-seed", "7", "--generations", "0")
    process = place.start("ablate", *flags)
    assert process.stderr
    name = process.stderr.readline().removeprefix("run ").split(":")[0]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err.endswith("The same command with --resume goes on from here.\n")
    before = json.loads(place.evolog("ls", "--json").out)["runs"]
    reports = json.loads(place.evolog("ablate", *flags, "--resume", "--json").out)
    assert reports[0]["run"] == name and reports[0]["audit"] == "done"
    after = json.loads(place.evolog("ls", "--json").out)["runs"]
    assert len(after) == len(before) + 3 and {one["run"] for one in reports} <= {one["run"] for one in after}


@pytest.mark.slow
def test_a_paused_run_is_not_taken_and_a_cancelled_one_is_played_anew(place: CliHarness) -> None:
    flags = (str(TOY), "--levers", "scaffold", "--seed", "8", "--generations", "1")
    name = place.evolog("run", *flags, "--detach").out.strip()
    place.evolog("pause", name)
    ablation = ("ablate", str(TOY), "--levers", "scaffold", "--seeds", "1", "--first-seed", "8", "--generations", "1")
    one_sentence(place.here(*ablation, "--resume", code=2), f"{name} is paused", f"evolog resume {name}")
    place.evolog("cancel", name)
    place.wait_until_audited(name)
    reports = json.loads(place.evolog(*ablation, "--resume", "--json").out)
    assert name not in {one["run"] for one in reports} and reports[0]["score"] is not None


def test_version(empty: CliHarness) -> None:
    assert empty.evolog("--version").out.startswith("evolog, version ")


@pytest.mark.parametrize(
    "command", [("service", "nonsense"), ("run",), ("nonsense",), ("run", "x", "--levers", "all"), ("ls", "--nope")]
)
def test_what_is_not_there_is_a_usage_error(empty: CliHarness, command: tuple[str, ...]) -> None:
    assert empty.here(*command, code=2).err.strip()


@pytest.mark.parametrize("directory", ["/dev/null/x", "taken"])
def test_a_directory_that_cannot_be_is_said_in_a_sentence(empty: CliHarness, directory: str) -> None:
    (empty.folder / "taken").touch()
    said = empty.here("run", str(TOY), "--dir", directory, code=2 if directory == "taken" else 1)
    assert directory in said.err


def test_settings_come_from_the_nearest_source(empty: CliHarness) -> None:
    """Each source asks for a seed that does not exist; the one that is refused is the one that counted."""

    def seed(*flags: str, **environment: str) -> str:
        found = re.search(r"(-\d) is not in the range", empty.here("run", str(TOY), *flags, code=2, **environment).err)
        return found[1] if found else ""

    def write(path: str, text: str) -> None:
        (empty.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (empty.folder / path).write_text(text)

    write("config/evolog/config.toml", "seed = -5\n")
    assert seed() == "-5"
    write("pyproject.toml", "[tool.evolog]\nseed = -4\n")
    assert seed() == "-4"
    write("evolog.toml", "seed = -6\n[run]\nseed = -3\n")
    assert seed() == "-3"
    assert seed(EVOLOG_RUN_SEED="-2") == "-2"
    assert seed("--seed=-1", EVOLOG_RUN_SEED="-2") == "-1"


@pytest.mark.parametrize(
    ("text", "key"),
    [("[run]\nsede = 1\n", "'sede'"), ("sede = 1\n", "'sede'"), ("[runn]\nseed = 1\n", "[runn]"), ("[run\n", "TOML")],
)
def test_a_wrong_setting_is_named_with_its_file(empty: CliHarness, text: str, key: str) -> None:
    (empty.folder / "evolog.toml").write_text(text)
    one_sentence(empty.here("ls", code=2), str(empty.folder / "evolog.toml"), key)


def test_watch_on_a_terminal_draws_what_it_is_told_in_lines_elsewhere(place: CliHarness) -> None:
    drawn = on_terminal(place, "watch", "toy-a")
    assert "\x1b" in drawn and "toy-a: task toy: finished, audited: all 2 generations are done, best dev 0.7" in drawn
    assert "│ weights" in drawn and "work: " in drawn and "cost: " in drawn and "run_finished" in drawn
    lines = on_terminal(place, "watch", "toy-a", "--lines")
    assert "run_started" in lines and "work: " not in lines
    assert "run_started" in on_terminal(place, "watch", "toy-a", TERM="dumb")


def test_no_escape_codes_but_on_a_terminal_that_wants_them(
    place: CliHarness, ran: tuple[CliHarness, CommandResult], other: CommandResult
) -> None:
    for said in (ran[1], other, place.evolog("ls"), place.evolog("show", "toy-a"), place.evolog("sql", COUNT)):
        assert "\x1b" not in said.out + said.err
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", on_terminal(place, "show", "toy-a", NO_COLOR="1"))
    assert "\x1b" not in on_terminal(place, "show", "toy-a", TERM="dumb")


def on_terminal(place: CliHarness, *arguments: str, **environment: str) -> str:
    """What a command prints to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        os.execve(
            sys.executable,
            [sys.executable, *CLI, *arguments],
            place.environment | {"TERM": "xterm-256color"} | environment,
        )
    text = b""
    try:
        while chunk := os.read(terminal, 65536):
            text += chunk
    except OSError:
        pass  # Linux: the other end is closed
    os.waitpid(pid, 0)
    os.close(terminal)
    return text.decode()


@pytest.mark.slow
def test_a_run_is_cancelled_though_it_is_paused_and_ends_with_what_it_has(place: CliHarness) -> None:
    place.evolog("run", str(TOY), "--name", "broken-off", "--strategy", "dgm", "--width", "4", "--detach")
    place.evolog("pause", "broken-off")
    assert "broken-off ends with what it has" in place.evolog("cancel", "broken-off", "--reason", "enough").err
    place.evolog("watch", "broken-off")  # to its end
    one_sentence(place.evolog("cancel", "broken-off", code=2), "is finished")
    assert json.loads(place.evolog("show", "broken-off", "--json").out)["reason"] == "cancelled: enough"


@pytest.mark.slow
def test_a_run_is_paused_and_goes_on(place: CliHarness) -> None:
    place.evolog("run", str(TOY), "--name", "halting", "--detach")
    assert "halting is paused" in place.evolog("pause", "halting").err
    one_sentence(place.evolog("pause", "halting", code=2), "paused already")
    assert "halting goes on" in place.evolog("resume", "halting").err
    place.evolog("watch", "halting")  # to its end
    one_sentence(place.evolog("pause", "halting", code=2), "is finished")
