"""What keeps a run waiting, in words: for `run`, `watch` and `show`."""

from collections.abc import Iterator, Sequence

from runtime.status import Activity, Status, Waiting

QUIET = 2.0
"""Seconds without an event after which it is said what a run waits for."""
WHERE = "; `evolog services` shows who is there, and what nobody does"
FIRST_REPEAT = 10.0
"""Seconds after which that is said again where lines cannot be replaced; then after twice as many, and so on."""


def waiting_sentence(status: Status, waiting: Waiting, now: float) -> str:
    """Who waits for what, why, which try it was, and when the next comes."""
    return f"{status.process} {waiting_phrase(waiting, now)}{_silence(status)}"


def waiting_phrase(waiting: Waiting, now: float, *, run: bool = False) -> str:
    """That it waits for what, why, which try it was, and when the next comes; with `run`, for which run."""
    sentence = f"waits for {waiting.waiting_for}"
    if waiting.error:
        sentence += f": {waiting.error.removesuffix('.')}"
    tries = [f"run {waiting.run}"] if run and waiting.run else []
    if waiting.put_off:
        tries.append(f"{waiting.put_off:,} event{'' if waiting.put_off == 1 else 's'} put off")
    if waiting.attempt is not None:
        tries.append(f"try {waiting.attempt}{f' of {waiting.attempts}' if waiting.attempts else ''} failed")
    if waiting.retry_at is not None:
        left = waiting.retry_at - now
        tries.append(f"next in {left:.0f} s" if left >= 0.5 else "the next is under way")
    tries.append(f"for {seconds_in_words(now - waiting.since)}")
    return f"{sentence} ({', '.join(tries)})"


def activity_sentence(status: Status, activity: Activity, now: float) -> str:
    """Who does what, and for how long by now."""
    return f"{status.process} {activity_phrase(activity, now)}{_silence(status)}"


def activity_phrase(activity: Activity, now: float, *, run: bool = False) -> str:
    """That it does what, for how long by now; with `run`, for which run."""
    concerned = f"run {activity.run}, " if run and activity.run else ""
    return f"{activity.doing} ({concerned}for {seconds_in_words(now - activity.since)})"


def _silence(status: Status) -> str:
    return f", and has not answered for {seconds_in_words(status.silent)}" if status.silent else ""


def _concerns(one: Activity | Waiting, run: str) -> bool:
    return not run or one.run in ("", run)


def obstacles(run: str, statuses: Sequence[Status]) -> Iterator[tuple[Status, Waiting]]:
    """What processes wait for with an error, for this run or for no run in particular."""
    for status in statuses:
        for waiting in status.waiting:
            if _concerns(waiting, run) and waiting.error:
                yield status, waiting


def present(run: str, statuses: Sequence[Status], now: float) -> list[str]:
    """What a run waits for at present, a sentence each: what went wrong first, then what takes its time."""
    wrong = [waiting_sentence(status, waiting, now) for status, waiting in obstacles(run, statuses)]
    usual = []
    for status in statuses:
        waits = [waiting for waiting in status.waiting if _concerns(waiting, run)]
        usual += [waiting_sentence(status, waiting, now) for waiting in waits if not waiting.error]
        if not waits:
            usual += [activity_sentence(status, one, now) for one in status.activities if _concerns(one, run)]
    return wrong + usual


def present_lines(run: str, statuses: Sequence[Status], decided: float | None, now: float) -> list[str]:
    """What an unfinished run waits for, below a heading; its last decision was stored at `decided`."""
    if not statuses:
        return ["no service is up: `evolog up` goes on with it"]
    ago = "" if decided is None else f"last decision {seconds_in_words(now - decided)} ago, "
    sentences = present(run, statuses, now)
    return [
        f"{ago}waiting for:",
        *(f"  {sentence}" for sentence in sentences or [f"a service to take up what was asked for{WHERE}"]),
    ]


def quiet_line(run: str, seconds: float, statuses: Sequence[Status], now: float, *, paused: bool = False) -> str:
    """That nothing has happened for so long, and what the run waits for."""
    said = f"nothing for {seconds_in_words(seconds)}"
    if paused:
        return f"{said}, waiting for `evolog resume {run}`: the run is paused"
    sentences = present(run, statuses, now)
    if sentences:
        return f"{said}, waiting for: {'; '.join(sentences)}"
    if statuses:
        return f"{said}, waiting for a service to take up what was asked for: none has it in hand{WHERE}"
    return f"{said}, and no service answers yet: `evolog logs` shows whether they are starting"


def seconds_in_words(seconds: float) -> str:
    """Whole seconds up to two minutes, then minutes and seconds."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


class QuietLines:
    """Which lines to print of a run that is followed, where a line that is printed stays: not the same again and again.

    What goes wrong is said as soon as it is known, and again with each try; what merely takes its time after 10, 20, 40
    seconds and so on. Where a line at hand is `replaced` all the time, only that something new is wrong stays.
    """

    def __init__(self, run: str, *, replaced: bool = False) -> None:
        self._run, self._replaced = run, replaced
        self._said: set[tuple[str, str, str, int | None]] = set()
        self._next = FIRST_REPEAT

    def lines(self, seconds: float, statuses: Sequence[Status], now: float, *, paused: bool = False) -> list[str]:
        """The lines that are due, where the last event came so many seconds ago."""
        found = []
        for status, waiting in obstacles(self._run, statuses):
            attempt = None if self._replaced else waiting.attempt
            key = (status.process, waiting.waiting_for, waiting.error, attempt)
            if key not in self._said:
                self._said.add(key)
                found.append(waiting_sentence(status, waiting, now))
        if self._replaced or seconds < FIRST_REPEAT:
            self._next = FIRST_REPEAT
        elif seconds >= self._next:
            while self._next <= seconds:
                self._next *= 2
            if not found:
                found.append(quiet_line(self._run, seconds, statuses, now, paused=paused))
        return found
