"""What each page shows: bounded questions to the archive, in the shape that its template takes.

A page of many rows holds `PAGE_ROWS`, and is turned by the sequence or the number of its last row, so that a page costs
the same wherever in the log it stands.
"""

import asyncio
import difflib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request

from events.errors import NotFound, UsageError
from events.fact import Fact
from events.gold import AuditFinished, DevAnswersScored, DriftFlagged, GoldFailed, GoldScored, PairMeasured
from replay.archive.query import QueryResult, text_literal
from replay.archive.schema import tables
from services.dashboard.charts import ChartPoint, Happening, Line, chart, sparkline, timeline
from services.dashboard.source import Row, Source, clip
from services.host.imports import imported_runs
from services.views.query_result import as_csv
from services.views.waiting import present

PAGE_ROWS = 50
LONGEST_LISTING = 200
"""Most generations, steps or items that one picture or table shows; what is beyond is said."""
LONGEST_EVENT = 4000
"""Characters of one event in the history; of a longer one the page says how many more there are."""
COMPARED = 6
"""Most runs that are compared."""
Content = dict[str, Any]


async def runs(source: Source, request: Request) -> Content:
    """All runs: state, task, levers, score, cost, with a filter and an order."""
    text, order = request.query_params.get("filter", ""), request.query_params.get("order", "started")
    column = RUN_ORDERS[_one_of(order, RUN_ORDERS, "order")]
    after = request.query_params.get("after", "")
    where = (
        f"WHERE contains(lower(concat_ws(' ', r.run, r.task, r.state, r.policy, r.agent)), lower({text_literal(text)}))"
        if text
        else ""
    )
    behind = f"WHERE place > (SELECT place FROM placed WHERE run = {text_literal(after)})" if after else ""
    try:
        answers = await source.together(
            total="SELECT count(*) AS total FROM run_started",
            runs=f"""WITH placed AS (
                SELECT r.*, row_number() OVER (ORDER BY {column}, r.run) AS place FROM runs r {where}
            ), shown AS (FROM placed {behind} ORDER BY place LIMIT {PAGE_ROWS + 1}),
            scored AS (
                SELECT run, list(c.score ORDER BY c.generation) FILTER (c.generation < {LONGEST_LISTING}) AS scores,
                    any_value(c.low) FILTER (c.candidate = s.candidate) AS low,
                    any_value(c.high) FILTER (c.candidate = s.candidate) AS high
                FROM candidates c JOIN shown s USING (run) GROUP BY run
            )
            SELECT s.run, task, seed, levers, policy, agent, state, started, seconds, generations, first_score,
                s.score, low, high, rollouts, tokens, micro_usd, owner, scores
            FROM shown s LEFT JOIN scored USING (run) ORDER BY place""",
        )
    except NotFound:  # the archivist has not begun
        answers = {"runs": [], "total": [{"total": 0}]}
    shown = answers["runs"][:PAGE_ROWS]
    verdicts = await source.verdicts([row["run"] for row in shown])
    rows = [
        {
            **row,
            "spark": sparkline([one for one in row["scores"] or () if one is not None], "scores on dev"),
            "said": verdicts.get(row["run"]),
        }
        for row in shown
    ]
    return {
        "runs": rows,
        "filter": text,
        "order": order,
        "orders": list(RUN_ORDERS),
        "total": answers["total"][0]["total"],
        "imported": imported_runs(source.node),
        "next": _address(request, after=shown[-1]["run"]) if len(answers["runs"]) > PAGE_ROWS else "",
    }


RUN_ORDERS: Mapping[str, str] = {
    "started": "r.started DESC",
    "name": "r.run",
    "score": "r.score DESC NULLS LAST",
    "rollouts": "r.rollouts DESC",
    "cost": "r.micro_usd DESC, r.tokens DESC",
    "state": "r.state",
}
"""The orders of the list of runs, by what a reader calls them."""


async def compare(source: Source, request: Request) -> Content:
    """Several runs beside each other: how they were ordered, and their scores over rollouts on one axis."""
    names = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 2 <= len(names) <= COMPARED:
        raise UsageError(f"Choose two to {COMPARED} runs to compare in the list of runs; {len(names)} were chosen.")
    listed = ", ".join(map(text_literal, names))
    answers = await source.together(
        runs=f"SELECT * FROM runs WHERE run IN ({listed})",
        rows=f"""SELECT c.run, c.generation, c.lever, c.change, c.score, c.low, c.high, c.accepted,
            sum(g.rollouts) OVER (PARTITION BY c.run ORDER BY c.generation) AS rollouts, l.action, l.reason
        FROM candidates c JOIN generations g ON g.run = c.run AND g.generation = c.generation
        LEFT JOIN lever_chosen l ON l.run = c.run AND l.generation = c.generation
        WHERE c.run IN ({listed}) ORDER BY c.run, c.generation LIMIT {LONGEST_LISTING * COMPARED}""",
    )
    found, rows = {row["run"]: row for row in answers["runs"]}, answers["rows"]
    if missing := [name for name in names if name not in found]:
        raise NotFound(_no_run(source, missing[0]))
    lines = []
    for index, name in enumerate(names):
        best, points = None, []
        for row in (row for row in rows if row["run"] == name and row["score"] is not None):
            if best is None or row["accepted"]:
                best = row
            points.append(
                ChartPoint(row["rollouts"] or 0, best["score"], lever="", title=f"{name}, {row['generation']}")
            )
        lines.append(Line(name, f"series-{index}", points))
    generations = sorted({row["generation"] for row in rows})[:LONGEST_LISTING]
    by_place = {(row["run"], row["generation"]): row for row in rows}
    return {
        "names": names,
        "runs": [found[name] for name in names],
        "picture": chart(lines, "Score on dev of what was accepted, over rollouts", "rollouts so far"),
        "settings": CONFIGURED,
        "decisions": [[by_place.get((name, number)) for name in names] for number in generations],
        "numbers": generations,
    }


CONFIGURED = (
    "task", "seed", "levers", "policy", "agent", "strategy", "width", "schedule", "state", "reason", "generations",
    "first_score", "score", "rollouts", "tokens", "micro_usd", "seconds", "parent_run",
)  # fmt: skip
"""The columns of `runs` that a comparison shows."""


async def overview(source: Source, request: Request) -> Content:
    """One run: its scores by generation, what it cost, what the services do now, and why it ended."""
    run = request.path_params["run"]
    after = _number(request, "after", -1)
    answers = await _about(
        source,
        run,
        row=f"SELECT * FROM runs WHERE run = {text_literal(run)}",
        last=f"SELECT seq, time, tag, source FROM events WHERE run = {text_literal(run)} ORDER BY seq DESC LIMIT 8",
        generations=f"""SELECT g.*, c.items, c.failed, c.candidate, c.change, k.tokens, k.micro_usd
        FROM generations g LEFT JOIN candidates c USING (run, generation)
        LEFT JOIN (SELECT run, generation, sum(tokens) AS tokens, sum(micro_usd) AS micro_usd FROM cost
                   GROUP BY run, generation) k USING (run, generation)
        WHERE run = {text_literal(run)} AND generation > {after} ORDER BY generation LIMIT {LONGEST_LISTING + 1}""",
    )
    row, generations = answers["row"][0], answers["generations"]
    shown = generations[:LONGEST_LISTING]
    gold = await source.gold_facts(run, DevAnswersScored, GoldScored, GoldFailed)
    services = await _services(source, run)
    spent, costs = 0, []
    for one in shown:
        spent += int(one["tokens"] or 0)
        costs.append(ChartPoint(one["generation"], spent, title=f"{spent:,} tokens"))
    return {
        "run": run,
        "row": row,
        "generations": shown,
        "next": _address(request, after=shown[-1]["generation"]) if len(generations) > LONGEST_LISTING else "",
        "picture": chart([_dev_line(run, shown), *_gold_lines(gold)], f"Scores of {run} by generation", "generation"),
        "costs": chart([Line("tokens so far", "tokens", costs)], f"Tokens of {run}", "generation", unit=False),
        "services": services,
        "idle": [one["name"] for one in services if not (one["words"] or one["error"])],
        "elsewhere": source.broker is not None,
        "last": answers["last"],
        "cells": [fact for fact in gold if isinstance(fact, GoldScored)],
        "cells_failed": [fact for fact in gold if isinstance(fact, GoldFailed)],
        "live": row["state"] in ("running", "paused"),
    }


def _dev_line(run: str, generations: Iterable[Row]) -> Line:
    points = [
        ChartPoint(
            row["generation"], row["score"], row["low"], row["high"], row["lever"] or "", row["accepted"] is False,
            f"/runs/{quote(run)}/candidates/{row['generation']}",
            f"generation {row['generation']}, {row['lever']}: {row['score']:.4f} ({row['standing'] or 'open'})",
        )
        for row in generations
        if row["score"] is not None
    ]  # fmt: skip
    return Line("dev, by the verifier", "dev", points)


def _gold_lines(facts: Iterable[object]) -> list[Line]:
    scored = sorted((fact for fact in facts if isinstance(fact, DevAnswersScored)), key=lambda fact: fact.generation)
    points = [
        ChartPoint(fact.generation, mean, title=f"gold {mean:.4f}")
        for fact in scored
        if (mean := _mean(fact.scores)) is not None
    ]
    return [Line("the same dev answers, by gold", "by-gold", points)] if points else []


def _mean(scores: Mapping[str, Sequence[float]]) -> float | None:
    means = [sum(item) / len(item) for item in scores.values() if item]
    return sum(means) / len(means) if means else None


async def _services(source: Source, run: str) -> list[Row]:
    """What each process does and waits for now, in words that name it, for this run or for no run in particular."""
    now = time.time()
    return [
        {
            "name": status.process,
            "host": status.host,
            "words": "; ".join(present(run, [status], now)),
            "error": status.last_error,
        }
        for status in await source.statuses()
    ]


async def lineage(source: Source, request: Request) -> Content:
    """The candidates of a run as a tree: who was made from whom, by which lever, with what gain."""
    run = request.path_params["run"]
    answers = await _about(
        source,
        run,
        rows=f"""SELECT c.generation, c.candidate, c.lever, c.score, c.low, c.high, c.verdict, c.change, c.parent,
            p.generation AS parent_generation, s.generation AS second_generation, c.score - p.score AS gain
        FROM candidates c LEFT JOIN candidates p ON p.run = c.run AND p.candidate = c.parent
        LEFT JOIN candidates s ON s.run = c.run AND s.candidate = c.second_parent
        WHERE c.run = {text_literal(run)} ORDER BY c.generation LIMIT {LONGEST_LISTING + 1}""",
        failed=f"""SELECT generation, reason FROM proposal_failed WHERE run = {text_literal(run)}
        ORDER BY generation LIMIT {LONGEST_LISTING}""",
    )
    rows = answers["rows"]
    shown = rows[:LONGEST_LISTING]
    return {
        "run": run,
        "candidates": shown,
        "failed": answers["failed"],
        "cut": len(rows) > LONGEST_LISTING,
        "tree": [
            {
                "id": one["generation"],
                "parent": one["parent_generation"],
                "lever": one["lever"],
                "score": one["score"],
                "gain": one["gain"],
                "verdict": one["verdict"] or "open",
                "href": f"/runs/{quote(run)}/candidates/{one['generation']}",
            }
            for one in shown
        ],
    }


async def candidate(source: Source, request: Request) -> Content:
    """One candidate: its scaffold against its parent's, why it was made, what became of it, and the conversation of the
    agent that made it.
    """
    run, generation = request.path_params["run"], request.path_params["generation"]
    of = f"run = {text_literal(run)} AND generation = {generation}"
    answers = await _about(
        source,
        run,
        facts=f"SELECT * FROM generations WHERE {of}",
        made=f"SELECT * FROM candidates WHERE {of}",
        proposed=f"SELECT scaffold, summary, reason FROM scaffold_proposed WHERE {of}",
        parent=f"""SELECT generation, scaffold, score FROM candidates
        WHERE candidate = (SELECT parent FROM candidates WHERE {of}) LIMIT 1""",
        calls=f"""SELECT seq, agent, ordinal, provider, model, request, response, prompt_tokens, completion_tokens,
            micro_usd, seconds, attempts, status FROM agent_called
        WHERE {of} ORDER BY agent, ordinal LIMIT {PAGE_ROWS}""",
        adapters=f"SELECT * FROM adapters WHERE {of} ORDER BY round LIMIT {PAGE_ROWS}",
    )
    facts, made, proposed, parent = (answers[name] for name in ("facts", "made", "proposed", "parent"))
    if not (facts or made or proposed):
        raise NotFound(f"Run {run!r} has no generation {generation}.")
    scaffold = (made or proposed or [{"scaffold": ""}])[0]["scaffold"]
    files = await source.files(scaffold) if scaffold else {}
    before = await source.files(parent[0]["scaffold"]) if parent else {}
    conversation = [{**call, "said": await source.text(call["response"])} for call in answers["calls"]]
    return {
        "run": run,
        "generation": generation,
        "facts": facts[0] if facts else None,
        "made": made[0] if made else None,
        "proposed": proposed[0] if proposed else None,
        "parent": parent[0] if parent else None,
        "files": files,
        "diff": _diff(before, files) if before else "",
        "conversation": conversation,
        "adapters": answers["adapters"],
    }


def _diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    parts = []
    for path in sorted({*before, *after}):
        old, new = (side[path].text if path in side else "" for side in (before, after))
        if old != new:
            old_name, new_name = (f"{side}/{path}" for side in "ab")
            head = f"diff --git {old_name} {new_name}\n"
            if path not in before:
                old_name, head = "/dev/null", f"{head}new file mode 100644\n"
            if path not in after:
                new_name, head = "/dev/null", f"{head}deleted file mode 100644\n"
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="")
            parts.append(head + "\n".join(lines))
    return "\n".join(parts)


async def trajectories(source: Source, request: Request) -> Content:
    """Items by candidates, coloured by mean reward; one item's answers down a column, where an item is chosen."""
    run = request.path_params["run"]
    purpose = request.query_params.get("purpose", "dev")
    item, after = request.query_params.get("item", ""), request.query_params.get("after", "")
    where = f"run = {text_literal(run)} AND purpose = {text_literal(purpose)}"
    items = f"""SELECT DISTINCT item FROM trajectories WHERE {where} AND item > {text_literal(after)}
        ORDER BY item LIMIT {PAGE_ROWS + 1}"""
    asked = await _about(
        source,
        run,
        items=items,
        cells=f"""SELECT generation, item, mean, attempts, failed FROM rewards
        WHERE {where} AND item IN ({items}) ORDER BY generation LIMIT 20000""",
        answers=f"""SELECT seq, generation, attempt, answer, reward, outcome, failure, seconds FROM trajectories
        WHERE {where} AND item = {text_literal(item)} ORDER BY generation DESC, attempt LIMIT {PAGE_ROWS}""",
        notable=f"""(SELECT 'longest' AS what, seq, item, generation FROM trajectories
            WHERE {where} AND answer IS NOT NULL ORDER BY length(answer) DESC, seq LIMIT 1) UNION ALL
        (SELECT 'shortest', seq, item, generation FROM trajectories
            WHERE {where} AND answer IS NOT NULL ORDER BY length(answer), seq LIMIT 1) UNION ALL
        (SELECT 'one drawn by its digest', seq, item, generation FROM trajectories
            WHERE {where} AND trajectory IS NOT NULL ORDER BY hash(trajectory) LIMIT 1)""",
        purposes=f"SELECT DISTINCT purpose FROM rollouts_requested WHERE run = {text_literal(run)} ORDER BY purpose",
    )
    names, cells = [one["item"] for one in asked["items"][:PAGE_ROWS]], asked["cells"]
    generations = sorted({one["generation"] for one in cells})
    cut = max(0, len(generations) - 60)
    values = [one["mean"] for one in cells if one["mean"] is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    by_place = {(one["item"], one["generation"]): one for one in cells}
    return {
        "run": run,
        "purpose": purpose,
        "purposes": [one["purpose"] for one in asked["purposes"]],
        "items": names,
        "generations": generations[cut:],
        "generations_cut": cut,
        "cells": by_place,
        "shade": lambda mean: min(9, int(10 * (mean - low) / ((high - low) or 1.0))),
        "low": low,
        "high": high,
        "item": item,
        "answers": asked["answers"],
        "notable": asked["notable"],
        "next": _address(request, after=names[-1]) if len(asked["items"]) > PAGE_ROWS else "",
    }


async def trajectory(source: Source, request: Request) -> Content:
    """One attempt: its messages, its tokens shaded by log-probability, and its reward with the verifier's details."""
    run, seq = request.path_params["run"], request.path_params["seq"]
    asked = await _about(
        source,
        run,
        one=f"SELECT * FROM trajectories WHERE run = {text_literal(run)} AND seq = {seq}",
        started=f"SELECT private_prompts FROM run_started WHERE run = {text_literal(run)}",
    )
    if not asked["one"]:
        raise NotFound(f"Run {run!r} has no attempt at sequence {seq}.")
    one, private = asked["one"][0], asked["started"][0]["private_prompts"]
    used = {call["call"]: call["completion"] for call in one["calls"] or ()}
    asked = await source.together(
        scored=f"""SELECT reward, outcome, verifier, details, low, high FROM trajectory_scored
        WHERE run = {text_literal(run)} AND trajectory = {text_literal(one["trajectory"] or "")} LIMIT 1""",
        calls=f"""SELECT seq, id, ordinal, model, adapter, body, temperature, texts, tokens, logprobs, prompt_tokens,
            completion_tokens, seconds, cut FROM model_called
        WHERE run = {text_literal(run)} AND id IN ({", ".join(map(text_literal, used)) or "NULL"})
        ORDER BY ordinal LIMIT {PAGE_ROWS}""",
    )
    shown = []
    for call in asked["calls"]:
        index = used[call["id"]]
        logprobs = _at(call["logprobs"], index, ())[:2000]
        shown.append(
            {
                **call,
                "text": clip(str(_at(call["texts"], index, ""))),
                "tokens": [
                    {"id": token, "logprob": logprob, "shade": min(9, int(-logprob * 1.5)) if logprob else 0}
                    for token, logprob in zip(_at(call["tokens"], index, ())[:2000], logprobs, strict=False)
                ],
                "prompt": None if private else await source.text(call["body"]),
            }
        )
    return {
        "run": run,
        "one": one,
        "answer": clip(str(one["answer"])) if one["answer"] is not None else None,
        "scored": asked["scored"][0] if asked["scored"] else None,
        "calls": shown,
        "private": private,
    }


AUDIT_TYPES: Sequence[type[Fact]] = (DevAnswersScored, DriftFlagged, PairMeasured, GoldScored, AuditFinished)
"""The facts of GOLD that the page of the audit shows or counts."""


async def audit(source: Source, request: Request) -> Content:
    """The verdict by family with its pictures and findings, where the operator looks; else why it is not shown."""
    run = request.path_params["run"]
    await _about(source, run)
    gold = await source.gold_facts(run, *AUDIT_TYPES)
    kept, waiting = await source.audits.content(run) if source.with_gold else (None, False)
    return {
        "run": run,
        "audit": kept,
        "waiting": waiting,
        "flags": [fact for fact in gold if isinstance(fact, DriftFlagged)],
        "pairs": sum(isinstance(fact, PairMeasured) for fact in gold),
        "cells": [fact for fact in gold if isinstance(fact, GoldScored)],
        "finished": any(isinstance(fact, AuditFinished) for fact in gold),
        "picture": chart(lines, f"Gold of {run}", "generation") if (lines := _gold_lines(gold)) else "",
        "elsewhere": source.broker is not None,
    }


async def training(source: Source, request: Request) -> Content:
    """What the optimiser did step by step, and what it was fed."""
    run = request.path_params["run"]
    asked = await _about(
        source,
        run,
        steps=f"""SELECT * FROM (SELECT seq, generation, round, step, loss, kl_to_base, entropy, clip_share, ratio_mean,
            ratio_max, grad_norm, tied_groups, tokens, seconds
            FROM optimizer_step_applied WHERE run = {text_literal(run)}
            ORDER BY seq DESC LIMIT 2000) ORDER BY seq""",
        batches=f"""SELECT generation, round, algorithm, trajectories, trained_on, lag, left_out, masked_tokens,
            repeated, steps, first_loss, last_loss, kl_to_base, seconds, adapter, served, canary_error, rejected
        FROM adapters WHERE run = {text_literal(run)} ORDER BY generation, round LIMIT {LONGEST_LISTING}""",
    )
    steps = asked["steps"]
    series = [name for name in STEP_FIGURES if any(step[name] is not None for step in steps)]
    return {
        "run": run,
        "steps": len(steps),
        "series": {"x": list(range(1, len(steps) + 1)), **{name: [step[name] for step in steps] for name in series}},
        "figures": STEP_FIGURES,
        "batches": asked["batches"],
        "latest": steps[-8:],
    }


STEP_FIGURES: Mapping[str, str] = {
    "loss": "loss",
    "kl_to_base": "KL to the base, nats a token",
    "entropy": "entropy, nats a token",
    "grad_norm": "norm of the gradient",
    "clip_share": "share of tokens clipped",
    "ratio_mean": "mean importance ratio",
    "ratio_max": "largest importance ratio",
    "tied_groups": "share of groups whose attempts tie",
}
"""The figures of a step, with what they are."""


HISTORY_FORMS = ("compact", "timeline", "json")


async def history(source: Source, request: Request) -> Content:
    """The events of a run, a page at a time, by type and service; causes can be followed both ways."""
    run = request.path_params["run"]
    tag, service = request.query_params.get("type", ""), request.query_params.get("service", "")
    cause, after = request.query_params.get("cause", ""), _number(request, "after", 0)
    form = _one_of(request.query_params.get("form", "compact"), HISTORY_FORMS, "form")
    where = [f"run = {text_literal(run)}", f"seq > {after}"]
    where += [f"tag = {text_literal(tag)}"] if tag else []
    where += [f"source = {text_literal(service)}"] if service else []
    where += [f"(cause = {text_literal(cause)} OR id = {text_literal(cause)})"] if cause else []
    asked = await _about(
        source,
        run,
        events=f"""SELECT seq, time, tag, id, cause, source, size FROM events WHERE {" AND ".join(where)}
        ORDER BY seq LIMIT {PAGE_ROWS + 1}""",
        types=f"SELECT DISTINCT tag FROM events WHERE run = {text_literal(run)} ORDER BY tag",
        sources=f"SELECT DISTINCT source FROM events WHERE run = {text_literal(run)} ORDER BY source",
    )
    shown: list[dict[str, Any]] = [{**one, "json": None} for one in asked["events"][:PAGE_ROWS]]
    if form == "json":
        full = await _full_events(source, shown)
        for one in shown:
            one["json"] = clip(full.get(one["seq"], "{}"), LONGEST_EVENT)
    return {
        "run": run,
        "events": shown,
        "forms": HISTORY_FORMS,
        "timeline": timeline([_happening(run, one) for one in shown]) if form == "timeline" else "",
        "types": [one["tag"] for one in asked["types"]],
        "sources": [one["source"] for one in asked["sources"]],
        "type": tag,
        "service": service,
        "cause": cause,
        "form": form,
        "next": _address(request, after=shown[-1]["seq"]) if len(asked["events"]) > PAGE_ROWS else "",
    }


def _happening(run: str, event: Row) -> Happening:
    return Happening(
        datetime.fromisoformat(event["time"]).timestamp(),
        event["source"],
        f"{event['seq']}: {event['tag']} at {moment(event['time'])}",
        f"/runs/{quote(run)}/history?form=json&after={event['seq'] - 1}",
    )


async def _full_events(source: Source, events: Sequence[Row]) -> dict[int, str]:
    """The events' fields as JSON, by sequence: one question for all types on the page."""
    by_tag: dict[str, list[int]] = {}
    for one in events:
        by_tag.setdefault(one["tag"], []).append(one["seq"])
    if not by_tag:
        return {}
    parts = [
        f'SELECT seq, to_json(t) AS fields FROM "{tag}" t WHERE seq IN ({", ".join(map(str, numbers))})'
        for tag, numbers in by_tag.items()
    ]
    rows = await source.rows(" UNION ALL ".join(parts))
    return {row["seq"]: json.dumps(json.loads(row["fields"]), indent=1, ensure_ascii=False) for row in rows}


async def sql(source: Source, request: Request) -> Content:
    """A query with its answer as a table or a plot, and what there is to be asked."""
    text = request.query_params.get("q", "")
    answer = await source.result(_limited(text)) if text.strip() else None
    plot = _plot(answer) if answer is not None and request.query_params.get("form") == "plot" else None
    return {
        "query": text,
        "answer": answer and answer._replace(rows=answer.rows[:LONGEST_LISTING]),
        "cut": answer is not None and len(answer.rows) > LONGEST_LISTING,
        "limit": LONGEST_LISTING,
        "plot": plot,
        "schema": await asyncio.to_thread(tables),
        "form": request.query_params.get("form", "table"),
        "csv": f"/sql.csv?{urlencode({'q': text})}",
        "examples": EXAMPLES,
    }


EXAMPLES: Mapping[str, str] = {
    "generations of all runs": "SELECT run, generation, lever, score, accepted FROM generations ORDER BY ALL",
    "what each lever gained": "SELECT lever, count(*) AS changes, avg(gain) AS gain FROM levers GROUP BY lever",
    "cost by purpose": "SELECT run, purpose, sum(tokens) AS tokens, sum(rollouts) AS rollouts FROM cost GROUP BY ALL",
    "events by type": "SELECT tag, count(*) AS events, sum(size) AS bytes FROM events GROUP BY ALL ORDER BY ALL",
}
"""Queries to begin with."""


async def csv_of(source: Source, request: Request) -> str:
    """The answer to a query as CSV, whole; the archive refuses what is too long."""
    return as_csv(await source.result(request.query_params.get("q", ""))).decode()


def _limited(text: str) -> str:
    """The query with at most one row more than a page shows, where it is a SELECT; another is left as it is."""
    body = text.strip().rstrip(";")
    if body.split(maxsplit=1)[0].lower() not in ("select", "from", "with", "values"):
        return body
    return f"SELECT * FROM (\n{body}\n) LIMIT {LONGEST_LISTING + 1}"


def _plot(answer: QueryResult) -> Markup:
    """The numeric columns over the first one, or over the row's number where that is no number."""
    numeric = [
        index
        for index, _ in enumerate(answer.columns)
        if answer.rows and all(isinstance(row[index], int | float) for row in answer.rows if row[index] is not None)
    ]
    if not numeric:
        return Markup('<p class="note">There is no column of numbers to plot.</p>')
    x = numeric[0] if numeric[0] == 0 and len(numeric) > 1 else None
    lines = [
        Line(
            answer.columns[index],
            f"series-{place % COMPARED}",
            [
                ChartPoint(float(row[x]) if x is not None and row[x] is not None else number, float(row[index]))
                for number, row in enumerate(answer.rows[:LONGEST_LISTING])
                if row[index] is not None
            ],
        )
        for place, index in enumerate(one for one in numeric if one != x)
    ]
    return chart(lines, "The answer", answer.columns[x] if x is not None else "row", unit=False)


async def _about(source: Source, run: str, **questions: str) -> dict[str, list[Row]]:
    """The answers to questions about a run, all asked at once; raises `NotFound` where there is no such run."""
    known = f"SELECT run FROM run_started WHERE run = {text_literal(run)}"
    answers = await source.together(known=known, **questions)
    if not answers["known"]:
        raise NotFound(_no_run(source, run))
    return answers


def _no_run(source: Source, run: str) -> str:
    return f"There is no run {run!r} in the archive{'' if source.broker else f' of {source.node.directory}'}."


def _number(request: Request, name: str, default: int) -> int:
    said = request.query_params.get(name, "")
    if not said:
        return default
    try:
        return int(said)
    except ValueError:
        raise UsageError(f"{name} is a whole number; {said!r} is none.") from None


def _one_of(said: str, known: Collection[str], name: str) -> str:
    if said not in known:
        raise UsageError(f"{name} is one of {', '.join(known)}; {said!r} is none of them.")
    return said


def _address(request: Request, **changed: object) -> str:
    """The address of this page with other parameters."""
    params = [pair for pair in request.query_params.multi_items() if pair[0] not in changed]
    return f"{request.url.path}?{urlencode([*params, *((name, str(value)) for name, value in changed.items())])}"


def _at(values: Sequence[Any] | None, index: int, otherwise: Any) -> Any:
    return values[index] if values is not None and index < len(values) else otherwise


def score(value: object) -> str:
    """A score to four digits, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def count(value: object) -> str:
    """A whole number with separators, or a dash."""
    return "-" if value is None else f"{value:,}"


def dollars(value: int | None) -> str:
    """Millionths of a US dollar as dollars; a dash where they are not known."""
    return "-" if value is None else f"${value / 1e6:,.2f}"


def duration(value: float | None) -> str:
    """Seconds in words."""
    if value is None:
        return "-"
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"


def moment(value: object) -> str:
    """A time to the second."""
    return str(value)[:19].replace("T", " ") if value else "-"


def short(value: object) -> str:
    """The beginning of a digest."""
    return str(value or "")[:12]


def as_json(value: object) -> str:
    """A value as JSON, for an attribute that a script reads."""
    return json.dumps(value)


FILTERS: dict[str, Callable[..., Any]] = {
    "score": score, "count": count, "dollars": dollars, "duration": duration, "moment": moment, "short": short,
    "as_json": as_json,
}  # fmt: skip
