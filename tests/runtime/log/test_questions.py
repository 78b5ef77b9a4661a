"""Questions across accounts: who hears them, that nobody listening is known at once, long answers, and what becomes of
one whose answerer is gone.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import Misconfigured, NotHere, TryAgain, Unavailable, UserError
from runtime.broker.accounts import QUESTIONS, USERS
from runtime.broker.credentials import credentials_file, read_credentials
from runtime.broker.server import EmbeddedServer
from runtime.log import questions
from runtime.log.questions import QUESTION_LIMIT, Answering, AnswerQuestion, Asking, Declined, NobodyListens
from tests.harness.broker import account, broker


def asking(server: EmbeddedServer, user: str = "executor") -> Asking:
    return Asking(read_credentials(credentials_file(server.directory, user)))


async def ask(server: EmbeddedServer, subject: str, question: bytes = b"?", user: str = "executor") -> bytes:
    return await asyncio.to_thread(asking(server, user).ask, subject, question)


@contextlib.asynccontextmanager
async def answering(server: EmbeddedServer, answer: AnswerQuestion, *subjects: str) -> AsyncIterator[Answering]:
    """A process of the policy that answers on these subjects."""
    async with account(server, "policy") as connection:
        host = Answering(connection, "policy", answer)
        await host.listen(subjects)
        serving = asyncio.create_task(host.serve())
        try:
            yield host
        finally:
            serving.cancel()


def echo(subject: str, question: bytes) -> bytes:
    return subject.encode() + b" " + question


def test_a_question_is_answered_where_somebody_listens_and_known_at_once_where_nobody_does(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, echo, "policy.b.a") as host:
            assert await ask(server, "policy.b.a") == b"policy.b.a ?"
            with pytest.raises(NobodyListens):
                await ask(server, "policy.b.other")
            await host.listen(["policy.b.other"])
            assert await ask(server, "policy.b.other", b"") == b"policy.b.other "
            with pytest.raises(NobodyListens):
                await ask(server, "policy.b.a")

    asyncio.run(check())


def test_an_answer_comes_whole_whatever_its_size(tmp_path: Path) -> None:
    data = bytes(range(251)) * (3 * QUESTION_LIMIT // 251 + 1)

    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, lambda _, size: data[: int(size)], "policy.b.a"):
            asker = asking(server)
            for size in (0, 1, QUESTION_LIMIT - 1, QUESTION_LIMIT, QUESTION_LIMIT + 1, 3 * QUESTION_LIMIT):
                assert await asyncio.to_thread(asker.ask, "policy.b.a", str(size).encode()) == data[:size]

    asyncio.run(check())


def test_a_long_answer_is_asked_for_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SENT_UNASKED", 2 * QUESTION_LIMIT)
    data = random.Random(0).randbytes(5 * QUESTION_LIMIT + 3)

    async def check() -> None:
        async with (
            broker(tmp_path) as server,
            answering(server, lambda *_: data, "policy.b.a"),
            answering(server, lambda *_: data, "policy.b.a"),
        ):
            assert await ask(server, "policy.b.a") == data
            monkeypatch.setattr(questions, "KEPT", 0.0)
            with pytest.raises(TryAgain, match="not fetched within 0 s"):
                await ask(server, "policy.b.a")
            monkeypatch.setattr(questions, "ANSWER_LIMIT", 5)
            with pytest.raises(Declined, match="at most 5: ask for less"):
                await ask(server, "policy.b.a")

    asyncio.run(check())


def test_an_answer_that_takes_long_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FIRST_WORD", 0.01)
    monkeypatch.setattr(questions, "WORD", 0.05)
    monkeypatch.setattr(questions, "NO_WORD", 0.3)
    monkeypatch.setattr(questions, "PATIENCE", 0.3)
    monkeypatch.setattr(questions, "LISTENING", 0.05)

    def slow(subject: str, question: bytes) -> bytes:
        time.sleep(1.0)
        return b"at last"

    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, slow, "policy.b.a"):
            assert await ask(server, "policy.b.a") == b"at last"

    asyncio.run(check())


@pytest.mark.parametrize("word", ["before it said a word", "after it said a word"])
def test_a_question_is_given_up_when_whoever_works_on_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(questions, "FIRST_WORD", 0.01 if word.startswith("after") else 2.0)
    monkeypatch.setattr(questions, "SILENCE", 0.2)
    monkeypatch.setattr(questions, "NO_WORD", 0.5)
    monkeypatch.setattr(questions, "LISTENING", 0.05)
    begun, over = threading.Event(), threading.Event()

    def work(subject: str, question: bytes) -> bytes:
        begun.set()
        over.wait()
        return b"too late"

    async def check() -> None:
        async with broker(tmp_path) as server:
            try:
                async with answering(server, work, "policy.b.a"):
                    asked = asyncio.create_task(ask(server, "policy.b.a"))
                    await asyncio.to_thread(begun.wait)
                    await asyncio.sleep(0.1)
                with pytest.raises(Unavailable, match="is gone" if word.startswith("after") else "has not said a word"):
                    await asked
            finally:
                over.set()

    asyncio.run(check())


def test_what_the_answer_raises_is_raised_where_it_was_asked(tmp_path: Path) -> None:
    cases: list[tuple[Exception, type[UserError]]] = [
        (NotHere("no such model", code=3), NotHere),
        (TryAgain("busy"), TryAgain),
        (Unavailable("no broker"), TryAgain),
        (UserError("refused"), Declined),
        (ValueError("a fault"), TryAgain),
    ]

    def fail(subject: str, question: bytes) -> bytes:
        raise cases[int(question)][0]

    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, fail, "policy.b.a"):
            for number, (raised, heard) in enumerate(cases):
                with pytest.raises(heard, match=str(raised)) as wrong:
                    await ask(server, "policy.b.a", str(number).encode())
                assert type(wrong.value) is heard and wrong.value.code == getattr(raised, "code", heard.code)

    asyncio.run(check())


def test_questions_are_shared_among_those_that_listen_and_go_on_when_one_leaves(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, lambda *_: b"first", "policy.b.a"):
            async with answering(server, lambda *_: b"second", "policy.b.a"):
                answers = {await ask(server, "policy.b.a") for _ in range(40)}
                assert answers == {b"first", b"second"}
            assert {await ask(server, "policy.b.a") for _ in range(10)} == {b"first"}

    asyncio.run(check())


def test_whoever_answers_listens_again_after_the_broker_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "LISTENING", 0.05)

    async def check() -> None:
        async with broker(tmp_path) as server, answering(server, echo, "policy.b.a"):
            asker = asking(server)
            assert await asyncio.to_thread(asker.ask, "policy.b.a", b"1") == b"policy.b.a 1"
            await server.stop()
            with pytest.raises(Unavailable):
                await asyncio.to_thread(asker.ask, "policy.b.a", b"2")
            await server.start()
            while True:
                try:
                    assert await asyncio.to_thread(asker.ask, "policy.b.a", b"3") == b"policy.b.a 3"
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)

    asyncio.run(check())


def test_nobody_asks_or_answers_who_may_not(tmp_path: Path) -> None:
    async def check() -> None:
        async with broker(tmp_path) as server:
            for user in (user for user in USERS if user != "bootstrap"):
                for service, (pattern, askers) in QUESTIONS.items():
                    subject = pattern.replace(">", "b")
                    with pytest.raises(NobodyListens if user in askers else Misconfigured):
                        await ask(server, subject, user=user)
                    async with account(server, user) as connection:
                        spy = Answering(connection, subject.partition(".")[0], echo)
                        await spy.listen([subject])
                        with pytest.raises(NobodyListens) if user != service else contextlib.nullcontext():
                            await ask(server, subject, user=askers[0])

    asyncio.run(check())
