"""Where a directory's blobs stand, and the way into streams, which is one way."""

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from events.errors import Misconfigured, NotHere
from events.subjects import BLOBS, GOLD_BLOBS
from runtime.blobs.directory import Blobs
from runtime.blobs.stream import CACHE_LIMIT, StreamBlobs
from runtime.broker.credentials import Credentials, Login, bundle_login, read_credentials
from runtime.broker.issuing import add_bundle, bundle_file, say_where_blobs_are, start_issuing
from runtime.broker.server import write_config
from runtime.broker.store import blobs_in
from services.dashboard.source import Source
from services.host.blobs import (
    cache_limit,
    choose_back_end,
    move_into_streams,
    operator_blobs,
    operator_gold_blobs,
    reading_blobs,
    service_blobs,
)
from services.host.node import Node
from services.host.settings import CACHE_VARIABLE
from tests.harness.broker import broker_beside, chunk_socket


def test_blobs_stand_in_the_directory_unless_streams_are_wanted_once(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for wanted in (None, "directory"):
        choose_back_end(node, wanted)
        assert blobs_in(tmp_path) == "directory" and type(operator_blobs(node)) is Blobs
    choose_back_end(node, "stream")
    choose_back_end(node, None)
    assert blobs_in(tmp_path) == "moving"
    with pytest.raises(Misconfigured, match="out of which nothing is taken"):
        choose_back_end(node, "directory")


def test_a_services_credentials_say_where_blobs_stand(tmp_path: Path) -> None:
    node, passwords = Node(tmp_path), {user: "secret" for user in ("executor", "bootstrap")}
    for wanted, kind in (("directory", Blobs), ("stream", StreamBlobs)):
        choose_back_end(node, wanted)
        write_config(tmp_path, 4321, _Passwords(passwords))
        credentials = read_credentials(node.credentials("executor"))
        assert credentials.blobs == wanted
        assert type(service_blobs(tmp_path / "elsewhere", BLOBS, credentials, _login(credentials))) is kind
    assert "blobs" in msgspec.json.decode(node.credentials("auditor").read_bytes())


def _login(credentials: Credentials) -> Login:
    return lambda: credentials


class _Passwords(dict[str, str]):
    def __missing__(self, user: str) -> str:
        return f"of {user}"


def test_what_a_directory_has_is_moved_into_streams_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    node, said = Node(tmp_path), list[str]()
    blobs, gold = Blobs(node.blobs), Blobs(node.gold_blobs)
    kept, damaged, audited = blobs.put(b"kept"), blobs.put(b"damaged"), gold.put(b"audited")
    tree = blobs.put_tree({"agent.py": b"1"})
    blobs.path(damaged).write_bytes(b"damagee")
    choose_back_end(node, "stream")
    with broker_beside(tmp_path) as server:
        move_into_streams(node, said.append)
        assert blobs_in(tmp_path) == "stream" and said[-1] == "1 of 1 blobs are in the stream GOLD_BLOBS."
        shutil.rmtree(node.blobs)
        shutil.rmtree(node.gold_blobs)
        there = StreamBlobs(tmp_path / "other", chunk_socket(server, "executor"))
        assert there.get(kept) == b"kept" and there.get_tree(tree) == {"agent.py": b"1"}
        assert operator_blobs(node).get(kept) == b"kept" and operator_gold_blobs(node).get(audited) == b"audited"
        assert StreamBlobs(tmp_path / "third", chunk_socket(server, "auditor", GOLD_BLOBS)).get(audited) == b"audited"
        for digest in (damaged, audited):
            with pytest.raises(NotHere):
                there.get(digest)
        move_into_streams(node, said.append)
        assert len(said) == 2


def test_a_bundle_says_where_blobs_stand_and_is_made_anew_where_they_were_moved(tmp_path: Path) -> None:
    node, said = Node(tmp_path), list[str]()
    start_issuing(tmp_path, "broker.example.org")
    path = bundle_file(tmp_path, "executor")
    before = bundle_login(path, "executor")()
    assert before.blobs == "directory"
    choose_back_end(node, "stream")
    with broker_beside(tmp_path):
        move_into_streams(node, said.append)
    after = bundle_login(path, "executor")()
    assert after == msgspec.structs.replace(before, blobs="stream")  # with the key that it had
    assert said[-1].startswith(f"Copy the bundles in {path.parent} to their hosts anew")
    assert bundle_login(add_bundle(tmp_path, "gpu-1", ["policy"]), "policy")().blobs == "stream"
    assert say_where_blobs_are(tmp_path) == []


def test_pages_show_what_stands_in_a_stream_and_without_its_broker_what_is_cached(tmp_path: Path) -> None:
    node = Node(tmp_path)
    choose_back_end(node, "stream")
    with broker_beside(tmp_path) as server:
        move_into_streams(node, lambda sentence: None)
        there = StreamBlobs(tmp_path / "elsewhere", chunk_socket(server, "executor"))
        shown, other = there.put(b"shown"), there.put(b"other")
        tree = there.put_tree({"agent.py": b"1"})
        source = Source(tmp_path, with_gold=False)
        assert asyncio.run(source.text(shown)).text == "shown"
        assert asyncio.run(source.files(tree))["agent.py"].text == "1"
        with reading_blobs(node) as blobs:
            assert blobs.get_tree(tree) == {"agent.py": b"1"}
    assert asyncio.run(source.text(shown)).text == "shown"
    assert "`evolog up` starts one" in asyncio.run(source.text(other)).text


def test_a_limit_of_the_cache_that_is_no_number_of_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_limit() == CACHE_LIMIT
    monkeypatch.setenv(CACHE_VARIABLE, "5000")
    assert cache_limit() == 5000
    for value in ("10GB", "-1", ""):
        monkeypatch.setenv(CACHE_VARIABLE, value)
        with pytest.raises(Misconfigured, match="whole number of bytes"):
            cache_limit()
