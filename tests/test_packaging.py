"""The package metadata and the lock agree with each other and with the folders."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cpr_deploy.files import EXTRAS as EXTRAS_BY_MODULE

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PACKAGES = {"cpr": ROOT / "projects/CPR/cpr", "cpr_deploy": ROOT / "deploy/cpr_deploy"}
LOCKS = ["app.lock", "detectron2.lock", "virtualenv.lock"]


def name_of(requirement: str) -> str:
    return re.split(r"[\s\[=<>~!;]", requirement)[0].lower().replace("_", "-")


def lock_entries(name: str) -> list[str]:
    """One string per requirement, its hashes included."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [entry for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]


def test_setup_imports_only_setuptools():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"setuptools"}


def test_setup_maps_every_package_folder():
    code = (
        "import json, setuptools; kept = {}\n"
        "setuptools.setup = lambda **options: kept.update(options)\n"
        "exec(open('setup.py').read())\n"
        "print(json.dumps(kept))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    options = json.loads(done.stdout)
    assert {name: ROOT / path for name, path in options["package_dir"].items()} == PACKAGES
    expected = {
        ".".join((package, *path.relative_to(folder).parts))
        for package, folder in PACKAGES.items()
        for path in {file.parent for file in folder.rglob("*.py")}
    }
    assert set(options["packages"]) == expected, "a folder with code has no __init__.py"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_exact_and_hashed(lock):
    entries = lock_entries(lock)
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s;]+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


def test_lock_holds_what_app_in_names():
    locked = {}
    for entry in lock_entries("app.lock"):
        name, version = re.match(r"([^=\s]+)==([^\s;]+)", entry).groups()
        locked.setdefault(name_of(name), set()).add(version)
    for line in (ROOT / "requirements/app.in").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        assert name_of(line) in locked, line
        if "==" in line:
            assert locked[name_of(line)] == {line.split("==")[1]}, line


def test_lock_never_holds_both_of_a_pair():
    names = {name_of(entry) for entry in lock_entries("app.lock")}
    assert "onnxruntime" in names and "onnxruntime-gpu" not in names
    assert "opencv-python" in names and "opencv-python-headless" not in names


def test_locked_versions_lie_in_the_ranges_of_the_extras():
    requirements = pytest.importorskip("packaging.requirements")
    locked = {}
    for entry in lock_entries("app.lock"):
        name, version = re.match(r"([^=\s]+)==([^\s;]+)", entry).groups()
        locked.setdefault(name_of(name), []).append(version)
    ranges = [
        *PYPROJECT["project"]["dependencies"],
        *(r for extra in EXTRAS.values() for r in extra),
    ]
    for text in ranges:
        requirement = requirements.Requirement(text)
        for version in locked.get(name_of(requirement.name), []):
            assert requirement.specifier.contains(version), f"{text}, locked {version}"


def test_extras():
    assert set(EXTRAS) == {"runtime", "gpu", "pick", "geo", "track", "train", "export", "dev"}
    names = {extra: {name_of(r) for r in requirements} for extra, requirements in EXTRAS.items()}
    for runtime in ("runtime", "gpu", "pick", "geo", "track"):
        assert not names[runtime] & {"torch", "torchvision", "detectron2"}
    assert "onnxruntime" not in names["gpu"] and "onnxruntime-gpu" in names["gpu"]
    assert "onnxruntime-gpu" not in names["runtime"] | names["export"] | names["dev"]
    base = {name_of(requirement) for requirement in PYPROJECT["project"]["dependencies"]}
    assert not base & {"torch", "onnxruntime", "opencv-python", "matplotlib"}


# Import package -> distribution, where the names differ.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python"}
# To Detectron2.
ADAPTERS = {"box_mapper.py", "dataset_mapper.py", "datasets.py", "evaluators.py"}


def imported_by(files) -> set[str]:
    """Distributions that the files import anywhere, functions included."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    names -= {*sys.stdlib_module_names, *PACKAGES}
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_a_bare_install_has_what_the_core_imports():
    base = {name_of(requirement) for requirement in PYPROJECT["project"]["dependencies"]}
    core = [
        file
        for part in ("data", "evaluation")
        for file in (PACKAGES["cpr"] / part).rglob("*.py")
        if file.name not in ADAPTERS
    ]
    tools = [ROOT / "tools/prepare_points.py", ROOT / "tools/evaluate_points.py"]
    # `frames` reads videos with the runtime's code and says so where that is not installed.
    files = PACKAGES["cpr_deploy"] / "files.py"
    assert imported_by([*core, *tools, files]) - {"av"} == base
    for extra, runtime in (("runtime", "onnxruntime"), ("gpu", "onnxruntime-gpu")):
        distributions = base | {name_of(requirement) for requirement in EXTRAS[extra]}
        # `camera` reads JSON, and YAML where PyYAML (extra `pick`) is installed.
        optional = {"onnxruntime", "yaml"}
        needed = imported_by(PACKAGES["cpr_deploy"].glob("*.py")) - optional | {runtime}
        assert needed <= distributions


def test_what_is_missing_is_named_with_its_extra():
    for module, extra in EXTRAS_BY_MODULE.items():
        if module != "detectron2":  # no release on PyPI: INSTALL.md, which the message names
            distribution = {"cv2": "opencv-python"}.get(module, module)
            assert distribution in {name_of(requirement) for requirement in EXTRAS[extra]}


def test_pythons_agree():
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile
    installer = (ROOT / "tools/install.py").read_text(encoding="utf-8")
    assert "OLDEST, NEWEST = (3, 11), (3, 13)" in installer


def test_versions_and_licence_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PYPROJECT['project']['version']}\n" in citation
    assert f"\nlicense: {PYPROJECT['project']['license']}\n" in citation
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_the_readme_commands():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in lines if line.startswith("make ")]
    assert commands == ["make test", "make test-browser", "make test-server"]
    assert "    make test\n" in readme
    assert all(f"`{command}`" in readme for command in commands[1:])


@pytest.mark.parametrize(
    "package", ["cpr.visualization.review", "cpr_deploy.web", "cpr_deploy.geo.writers"]
)
def test_files_of_web_pages_are_packaged(package):
    root, *rest = package.split(".")
    folder = PACKAGES[root].joinpath(*rest)
    files = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in (".html", ".css", ".js")
    }
    assert {Path(name).name for name in files} == {"page.html", "page.css", "page.js"}
    assert set(PYPROJECT["tool"]["setuptools"]["package-data"][package]) == files
