"""What the dashboard reads where it has a broker's address and no project directory: by a bundle of `evolog
credentials`, made for the dashboard, or for the operator where gold is to be shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.errors import UsageError
from events.subjects import BLOBS
from replay.archive.query import QUERIES, QueryResult, query_over
from runtime.blobs.directory import Blobs
from runtime.broker.accounts import DASHBOARD, OPERATOR
from runtime.broker.credentials import Login, bundle_login, read_bundle
from runtime.log.questions import Asking
from services.host.blobs import service_blobs
from services.host.context import with_url


class Broker:
    """The archive and the blobs of another host, over its broker. The methods are for threads."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        """`folder` keeps the blobs that are read. Raises as `read_bundle`, and `UsageError` for another's bundle."""
        known = read_bundle(bundle).accounts
        account = next((name for name in (OPERATOR, DASHBOARD) if name in known), None)
        if account is None:
            raise UsageError(
                f"{bundle} is for {', '.join(known)}, and a dashboard may not read with it: make one with `evolog "
                "credentials add NAME dashboard` on the broker's host."
            )
        self.login: Login = with_url(bundle_login(bundle, account))
        self.reads_gold = account == OPERATOR
        self._idle: list[Asking] = []
        credentials = self.login()
        self._blobs = service_blobs(folder, BLOBS, credentials, self.login, patient=False)

    def query(self, sql: str) -> QueryResult:
        """The answer of the archivist, as `query` gives it; raises `Unavailable` where none listens."""
        with self._asking() as asking:
            return query_over(lambda question: asking.ask(QUERIES, question), sql)

    @contextmanager
    def blobs(self) -> Iterator[Blobs]:
        """The blobs, or what a folder that hosts share has of them."""
        yield self._blobs

    @contextmanager
    def _asking(self) -> Iterator[Asking]:
        # a connection asks one question at a time, and pages ask several
        asking = self._idle.pop() if self._idle else Asking(self.login(), self.login)
        try:
            yield asking
        finally:
            self._idle.append(asking)
