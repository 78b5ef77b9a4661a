"""The accounts of the nats-server: which may write and read what, and the work that each service is handed.

All of it is derived from the tables of who writes which event and who is handed it as work (`events/catalogue.py`).
The rights, not good manners, keep the log append-only: nobody may update, purge, delete or restore a stream, and a
service may append only the tags of its own. Each service has an account of its own and reaches the streams through what
it imports.
"""

import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from events.catalogue import DURABLES, SERVICES, durables_of, published_by
from events.subjects import BLOB_PREFIX, BLOBS, GOLD, GOLD_BLOBS, LOG, PREFIX

OPERATOR = "operator"
"""The account of the command line."""
DASHBOARD = "dashboard"
"""The account of a dashboard on another host: it reads the archive and blobs, and nothing of gold."""
BOOTSTRAP = "bootstrap"
"""The account that makes the streams and consumers, and can do nothing else."""
KEEPER = "keeper"
"""The NATS account that the streams stand in."""
STATUS = "status"
"""The first token of the subjects on which services are asked for what they do at present (`runtime/status.py`)."""
STATUS_LIMIT = "10s"
"""The time within which a service may answer such a question."""
API = "$JS.keeper.API"
"""The prefix under which a user finds the part of the JetStream API that it may use (nats-py:
`client.jetstream(prefix=API)`).
"""
USERS = (*SERVICES, OPERATOR, BOOTSTRAP)
"""The accounts that have a password on the broker's host. A dashboard is let in by the key of a bundle alone."""
LONGEST_FETCH = 60.0
"""Seconds that a service may wait in one fetch."""
VERSION_KEY = "evolog"
"""The name, in the metadata of each consumer, of the version of evolog whose processes may take its work."""
READERS = ("archivist", "controller", OPERATOR)
"""Who reads the whole log at once, by a consumer of its name that needs no acknowledgements (`runtime/log/socket.py`,
`BulkReader`).
"""

BLOB_USERS: Mapping[str, tuple[str, ...]] = {
    BLOBS: ("meta_agent", "feedback_agent", "executor", "verifier", "policy", "trainer", "auditor", OPERATOR),
    GOLD_BLOBS: ("auditor", OPERATOR),
}
"""Who reads and adds to each stream of blobs. A dashboard reads those of `BLOBS` alone."""
WATCHERS = (OPERATOR, DASHBOARD)
"""Who may ask services for what they do at present."""
QUESTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "policy": ("policy.>", ("executor", "auditor", "meta_agent", "feedback_agent")),
    "archivist": ("archive.>", ("meta_agent", "feedback_agent", OPERATOR, DASHBOARD)),
}
"""The services that are asked, with the subjects that they hear, and who may ask them (`runtime/log/questions.py`)."""
ANSWERS = "_R_.>"
"""The subjects on which an account answers what another one asked of it; the server makes one for each question."""
QUESTION_THRESHOLD = 120.0
"""Seconds after the last word of an answer, or of its coming, after which the server forgets the way back."""


def draw_passwords() -> dict[str, str]:
    """A new random password for every account."""
    return {user: secrets.token_urlsafe(24) for user in USERS}


def accounts_of(
    passwords: Mapping[str, str], keys: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> dict[str, object]:
    """The server's accounts, as its configuration has them, for these passwords by user and these public nkeys.

    Whoever shows one of an account's keys has the rights of that account, as whoever has its password.
    """
    # The streams stand in an account that has no user, and every user in one of its own that imports its rights and
    # nothing else. Permissions alone would not do: JetStream sends its answer to whatever reply subject a request
    # names, and asks nobody's leave: with `$JS.API.STREAM.DELETE.EVOLOG` as the reply, a service that may only read had
    # the log deleted (nats-server 2.15.1). Across accounts the answer comes out in the asker's own account, where
    # nothing listens.
    rights = {user: rights_of(user) for user in (*USERS, DASHBOARD)}
    granted: dict[str, list[str]] = {}
    for user, subjects in rights.items():
        for subject in subjects:
            granted.setdefault(subject, []).append(user)
    exports = [
        {"service": subject, "accounts": users, **_response_limits(subject)} for subject, users in granted.items()
    ]
    accounts: dict[str, object] = {KEEPER: {"jetstream": "enabled", "exports": exports}}
    for user, subjects in rights.items():
        publish, subscribe = permissions_of(user)
        imports: list[dict[str, object]] = [
            {"service": {"account": KEEPER, "subject": subject}, "to": _local(subject)} for subject in subjects
        ]
        imports += [{"service": {"account": service, "subject": heard}} for service, heard in _asked_by(user).items()]
        permissions: dict[str, object] = {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
        account: dict[str, object] = {"imports": imports}
        if user in SERVICES:  # any number of processes, of which each answers the operator, and nobody else
            permissions["allow_responses"] = {"max": 1, "expires": STATUS_LIMIT}
            limits = {"response": "stream", "response_threshold": STATUS_LIMIT}
            exported: list[dict[str, object]] = [
                {"service": status_subject(user), "accounts": list(WATCHERS), **limits},
                *(_export_of_questions(heard, askers) for heard, askers in _heard_by(user).items()),
            ]
            account["exports"] = exported
        if user in WATCHERS:
            imports += [{"service": {"account": service, "subject": status_subject(service)}} for service in SERVICES]
        logins = [{"user": user, "password": passwords[user]}] if user in passwords else []
        logins += [{"nkey": public} for public in keys.get(user, ())]
        accounts[user] = account | {
            "users": [{**login, "permissions": permissions} for login in logins],
        }
    return accounts


def status_subject(service: str) -> str:
    """The subject on which each process of a service is asked for its status."""
    return f"{STATUS}.{service}"


def permissions_of(user: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The subjects, as a user's own account names them, to which it may publish and subscribe."""
    publish = [_local(subject) for subject in rights_of(user)]
    publish += [status_subject(service) for service in SERVICES] if user in WATCHERS else []
    publish += [*_asked_by(user).values(), *([ANSWERS] if _heard_by(user) else [])]
    subscribe = [f"{inbox_of(user)}.>", *([status_subject(user)] if user in SERVICES else []), *_heard_by(user)]
    return tuple(publish), tuple(subscribe)


def rights_of(user: str) -> list[str]:
    """The subjects, as the streams' account names them, to which a user may publish."""
    if user == DASHBOARD:
        return [f"$JS.API.DIRECT.GET.{BLOBS}.{BLOB_PREFIX[BLOBS]}.*.*"]
    if user == BOOTSTRAP:
        return [
            *(
                f"$JS.API.STREAM.{verb}.{stream}"
                for stream in (LOG, GOLD, BLOBS, GOLD_BLOBS)
                for verb in ("CREATE", "INFO")
            ),
            *(f"$JS.API.CONSUMER.CREATE.{LOG}.{durable}" for durable in (*DURABLES, *READERS)),
        ]
    allowed = [f"{PREFIX[stream]}.*.*.{tag}" for stream, tag in published_by(user)]
    if user in SERVICES:
        allowed.append(f"$JS.API.CONSUMER.INFO.{LOG}.{user}")
    for durable in durables_of(user):
        allowed += [
            f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.{durable}",
            f"$JS.ACK.{LOG}.{durable}.>",
            f"$JS.ACK.*.*.{LOG}.{durable}.>",
        ]
    if user in READERS:
        allowed += [f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.{user}", f"$JS.API.CONSUMER.RESET.{LOG}.{user}"]
    if user == OPERATOR:  # how much work waits; the places of readers say nothing of what they have still to do
        allowed += [f"$JS.API.CONSUMER.INFO.{LOG}.{durable}" for durable in DURABLES]
    for stream in (LOG, GOLD) if user in ("auditor", OPERATOR) else (LOG,):
        allowed += [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>", f"$JS.API.STREAM.INFO.{stream}"]
    for stream, users in BLOB_USERS.items():
        if user in users:
            allowed += [f"{BLOB_PREFIX[stream]}.*.*", f"$JS.API.DIRECT.GET.{stream}.{BLOB_PREFIX[stream]}.*.*"]
    return allowed


def _local(subject: str) -> str:
    # every account has a `$JS.API` of its own, which would answer first
    return subject.replace("$JS.API.", f"{API}.")


def _response_limits(subject: str) -> dict[str, str]:
    # several answers to one request; the server keeps the way back for as long as the last one is no older than this
    if ".MSG.NEXT." in subject:
        return {"response": "stream", "response_threshold": f"{2 * LONGEST_FETCH:.0f}s"}
    if ".DIRECT.GET." in subject:
        return {"response": "stream", "response_threshold": "10s"}
    return {"response": "singleton"}


def _asked_by(user: str) -> dict[str, str]:
    """The services that a user may ask, with the subjects of its questions."""
    return {service: heard for service, (heard, askers) in QUESTIONS.items() if user in askers}


def _heard_by(user: str) -> dict[str, tuple[str, ...]]:
    """The subjects on which a user is asked, with those that may ask there."""
    return {heard: askers for service, (heard, askers) in QUESTIONS.items() if user == service}


def _export_of_questions(heard: str, askers: Sequence[str]) -> dict[str, object]:
    return {
        "service": heard,
        "accounts": list(askers),
        "response": "stream",
        "response_threshold": f"{QUESTION_THRESHOLD:.0f}s",
    }


def inbox_of(user: str) -> str:
    """The prefix of the subjects on which a user is answered."""
    return f"_INBOX_{user}"
