"""Runs every golden vector of a folder (--golden-dir) through the public functions.

Each *.json holds {"kind": ..., "cases": [...]}; a case of kind k goes to `check_k`, which some
module of `golden_checks` defines. A kind that nothing checks is a failure.
"""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import golden_checks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--golden-dir"))
    files = sorted(folder.glob("*.json"))
    if "golden_file" in metafunc.fixturenames:
        metafunc.parametrize("golden_file", files, ids=[file.stem for file in files])
    if "case" in metafunc.fixturenames:
        cases, ids = [], []
        for file in files:
            content = json.loads(file.read_text())
            for index, case in enumerate(content["cases"]):
                cases.append((content["kind"], case))
                ids.append(f"{content['kind']}-{case.get('name') or index}")
        metafunc.parametrize("case", cases, ids=ids)


def find_check(kind: str):
    failed = []
    for module_info in pkgutil.iter_modules(golden_checks.__path__):
        try:
            module = importlib.import_module(f"golden_checks.{module_info.name}")
        except ImportError as error:
            failed.append(f"{module_info.name}: {error}")
            continue
        check = getattr(module, f"check_{kind}", None)
        if check is not None:
            return check
    pytest.fail(f"no check_{kind} in golden_checks; not importable: {failed or 'none'}")


def test_folder_has_vectors(request):
    folder = Path(request.config.getoption("--golden-dir"))
    assert list(folder.glob("*.json")), f"no *.json in {folder}"


def test_kind_is_checked(golden_file):
    content = json.loads(golden_file.read_text())
    assert content["cases"], f"{golden_file} has no cases"
    find_check(content["kind"])


def test_golden(case):
    kind, vector = case
    find_check(kind)(vector)
