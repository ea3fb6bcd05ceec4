"""Options and fixtures shared by all tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "data" / "golden"),
        help="folder of the golden vectors that tests/test_golden.py runs",
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to, or read from, the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def at_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is the repository's, as for its commands."""
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes with one thread: tiny networks are fastest so, and sums do not vary."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium, which asks nothing of the net by itself."""
    if not CHROMIUM:
        pytest.skip("no Chromium: `make test-browser` installs it; or name one in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    flags = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    flags += ["--disable-sync", "--no-first-run"]
    # Without a sandbox only where Chromium itself demands that.
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
