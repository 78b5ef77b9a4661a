"""The dashboard in a real browser: no error of a script, nothing that the page's policy stops, and nothing that keeps
out who cannot see well (axe-core's serious and critical findings).
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from services.dashboard.app import create_app
from services.dashboard.source import Source
from tasks.kit import data_folder
from tests.harness.cli import RUN, CliHarness, running
from tests.harness.dashboard import TOKEN, addresses, client, make_hostile, recorded_directory

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]
HISTORY = "decider-version-5"
DATA = data_folder("lawbench")


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The dashboard of a directory at an address of this machine."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(Source(directory, with_gold=True), TOKEN, ["127.0.0.1"]),
            port=0,
            log_level="error",
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def watched_page(browser: Any, width: int, scheme: str) -> Iterator[tuple[Any, list[str]]]:
    """A page of its own, and the list to which each error of a script is added, and each dialog that one opens."""
    wrong: list[str] = []

    def on_dialog(dialog: Any) -> None:
        wrong.append("a hostile script ran")
        dialog.dismiss()

    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda said: wrong.append(f"{said.type}: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", on_dialog)
    page.set_default_timeout(120_000)
    yield page, wrong
    context.close()


def faults(page: Any, address: str, width: int) -> list[str]:
    """What is wrong with the page that is shown: wider than the screen, or axe-core's serious and critical findings."""
    wide = page.evaluate("document.documentElement.scrollWidth")
    wrong = [f"{address} is {wide} pixels wide on a screen of {width}"] if wide > width else []
    return wrong + [
        f"{address}: {one['id']} ({one['nodes'][0]['html'][:200]})"
        for one in axe.Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("hostile", "width", "scheme"),
    [(False, 1200, "light"), (True, 380, "dark")],
    ids=["as recorded, wide and light", "hostile texts, narrow and dark"],
)
def test_every_page_works_in_a_browser(browser: Any, tmp_path: Path, hostile: bool, width: int, scheme: str) -> None:
    directory = tmp_path / "recorded"
    run = recorded_directory(directory, HISTORY)
    if hostile:
        make_hostile(directory)
    with client(directory) as page:
        all_addresses = addresses(page, run)
    with served(directory) as base, watched_page(browser, width, scheme) as (page, wrong):
        page.goto(f"{base}/?token={TOKEN}")
        for address in all_addresses:
            page.goto(base + address)
            wrong += faults(page, address, width)
    assert not wrong, "\n".join(wrong)


def test_a_run_that_goes_on_is_followed_without_a_reload(browser: Any, tmp_path: Path) -> None:
    """By two who watch it at once, on a wide screen and on a narrow one."""
    looks = ((1200, "light"), (380, "dark"))
    with running(tmp_path) as system, served(system.node.directory) as base, ExitStack() as open_pages:
        system.order("--generations", "8")
        watched = [open_pages.enter_context(watched_page(browser, *look)) for look in looks]
        for page, _ in watched:
            page.goto(f"{base}/?token={TOKEN}")
            page.wait_for_selector(f"a[href='/runs/{RUN}']")  # the list renews itself
            page.goto(f"{base}/runs/{RUN}")
            page.evaluate("window.sameDocument = true")
            page.wait_for_selector("table a[href$='/candidates/0']")
        before = [page.locator("table a[href*='/candidates/']").count() for page, _ in watched]
        for (page, _), count in zip(watched, before, strict=True):
            page.locator("table a[href*='/candidates/']").nth(count).wait_for()
            assert page.evaluate("window.sameDocument"), "the page was loaded anew"
        with client(system.node.directory) as asked:
            all_addresses = addresses(asked, RUN)
        for (width, _), (page, wrong) in zip(looks, watched, strict=True):
            other = page.context.new_page()
            other.on("pageerror", lambda error, wrong=wrong: wrong.append(f"error: {error}"))
            for address in all_addresses:
                other.goto(base + address)
                wrong += faults(other, address, width)
        for page, wrong in watched:
            page.wait_for_selector(".state-finished")
            assert page.evaluate("window.sameDocument"), "the page was loaded anew"
            assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason="LawBench is not here: `evolog data get lawbench`")
def test_every_page_of_a_finished_run_of_lawbench_works(browser: Any, tmp_path: Path) -> None:
    system = CliHarness(tmp_path, XDG_CACHE_HOME=str(DATA.parents[2]))
    system.patience = 1800.0
    system.evolog("run", "lawbench", "--name", RUN, "--generations", "1")
    with client(system.node.directory) as asked:
        all_addresses = addresses(asked, RUN)
    with served(system.node.directory) as base:
        for width, scheme in ((1200, "light"), (380, "dark")):
            with watched_page(browser, width, scheme) as (page, wrong):
                page.goto(f"{base}/?token={TOKEN}")
                for address in all_addresses:
                    page.goto(base + address)
                    wrong += faults(page, address, width)
            assert not wrong, "\n".join(wrong)


def test_pictures_that_scripts_draw_are_there(browser: Any, tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "recorded", HISTORY)
    with served(tmp_path / "recorded") as base:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{base}/?token={TOKEN}")
        page.goto(f"{base}/runs/{run}/lineage")
        assert page.locator("#tree svg a.node").count() > 2
        page.locator("#tree svg a.node").nth(1).focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/candidates/*")
        page.goto(f"{base}/runs/{run}/training")
        assert page.locator("#plots canvas[role=img]").count() >= 6
        page.goto(f"{base}/runs/{run}/candidates/1")
        assert page.locator("#diff .d2h-wrapper").count() == 1
        page.close()
