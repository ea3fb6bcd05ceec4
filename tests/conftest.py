"""Options shared by all tests."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "data" / "golden"),
        help="folder of the golden vectors that tests/test_golden.py runs",
    )
