"""The light parts must work where neither torch nor Detectron2 is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"cpr": ROOT / "projects" / "CPR" / "cpr", "cpr_deploy": ROOT / "deploy" / "cpr_deploy"}
# Adapters to Detectron2 live in files of their own.
ADAPTERS = {
    "cpr.data.box_mapper",
    "cpr.data.dataset_mapper",
    "cpr.data.datasets",
    "cpr.evaluation.evaluators",
}


def modules() -> list[str]:
    names = ["cpr"]
    for package, part in (("cpr", "data"), ("cpr", "evaluation"), ("cpr_deploy", "")):
        for path in (PACKAGES[package] / part).rglob("*.py"):
            below = path.relative_to(PACKAGES[package].parent).with_suffix("")
            names.append(".".join(below.parts))
    return sorted({name.removesuffix(".__init__") for name in names} - ADAPTERS)


def run(code: str) -> subprocess.CompletedProcess:
    paths = [str(ROOT / "projects" / "CPR"), str(ROOT / "deploy")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_light_modules_import_without_torch():
    code = f"""
import importlib, sys
for name in ("torch", "torchvision", "detectron2"):
    sys.modules[name] = None  # an import of it fails
for name in {modules()!r}:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{{name}}: {{error!r}}")
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_runtime_imports_nothing_of_the_training_package():
    code = f"""
import importlib, sys
sys.modules["cpr"] = None
for name in {[name for name in modules() if name.startswith("cpr_deploy")]!r}:
    importlib.import_module(name)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["cpr", "cpr.data", "cpr.evaluation"])
def test_packages_import_nothing(package):
    code = f"""
import sys
before = set(sys.modules)
import {package}
new = {{name for name in set(sys.modules) - before if not name.startswith(("cpr", "__editable"))}}
sys.exit(str(new) if new else 0)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
