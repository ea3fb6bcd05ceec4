#!/usr/bin/env python3
"""Makes the application environment `.venv`: the lock, Detectron2, and this project (editable).

Runs on the system's Python with the standard library only. Safe to repeat: an environment that is
up to date is left alone, one that an interrupted run left half done is repaired.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
# The environment takes 5.5 GB, and pip unpacks while the download is still there.
NEEDED_BYTES = 8 * 10**9
DETECTRON2_REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
DETECTRON2_NAMES = ("detectron2", "sal-detectron2")
# Whatever changes what an environment holds.
FINGERPRINTED = (
    "requirements/app.lock",
    "requirements/detectron2.lock",
    "tools/install.py",
    "pyproject.toml",
    "setup.py",
)

# (pattern in pip's output, cause, fix); the first that matches is shown.
DIAGNOSES = (
    (
        r"No space left on device|Errno 28",
        "the disk is full",
        "free 8 GB, or point TMPDIR and PIP_CACHE_DIR to a larger disk",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a downloaded file is not the one in the lock (damaged, or changed by a mirror)",
        "run `python3 -m pip cache purge` and try again; with a mirror, check its copy",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index's certificate is not trusted here (often a company proxy)",
        "set PIP_CERT to your organisation's certificate bundle",
    ),
    (
        r"No matching distribution found|Could not find a version that satisfies",
        "the package index has no file of that version for this system and Python",
        "use x86-64 Linux with Python 3.11 to 3.13; check that your pip index is complete",
    ),
    (
        r"NewConnectionError|Name or service not known|Temporary failure in name resolution"
        r"|ConnectTimeout|ReadTimeout|Connection refused|Max retries exceeded|ProxyError",
        "the package index cannot be reached",
        "check the network; behind a proxy set HTTPS_PROXY; for a mirror set PIP_INDEX_URL",
    ),
    (
        r"Permission denied|Errno 13",
        "a folder may not be written",
        "check the owner of .venv and of pip's cache (was an earlier run made as root?)",
    ),
    (
        r"command '[^']*(gcc|cc|g\+\+|c\+\+|nvcc|ninja)'? failed|error: Microsoft Visual C",
        "compiling failed",
        "only DETECTRON2_COMMIT needs a compiler: install g++, or leave that variable out",
    ),
    (
        r"Repository not found|Could not resolve host|git (clone|fetch) .* did not run success"
        r"|unable to access|not our ref|did not match any file",
        "the Detectron2 repository or commit cannot be fetched",
        "check DETECTRON2_COMMIT and the network, or leave the variable out",
    ),
)


class InstallError(Exception):
    """A cause and a fix, for people."""


def say(text: str) -> None:
    print(f"install: {text}", flush=True)


def check_python(version: tuple[int, ...]) -> None:
    """InstallError unless `version` (major, minor, ...) is one that the lock covers."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise InstallError(
            f"Python {'.'.join(map(str, version[:3]))} is not supported; 3.11, 3.12 or 3.13 is"
            " needed. Choose one, for example: make install PYTHON=python3.12"
        )


def fingerprint(root: Path, commit: str) -> str:
    """Changes when the environment has to change."""
    digest = hashlib.sha256(commit.encode())
    for name in FINGERPRINTED:
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


# --- the virtual environment ---------------------------------------------------------------------


def venv_python(venv: Path) -> Path:
    return venv / "bin" / "python"


def clean_environment() -> dict[str, str]:
    """The process environment without what would lead pip or Python out of the venv."""
    leave_out = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in leave_out}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def python_says(python: Path | str, code: str, *, cwd: Path | None = None) -> tuple[bool, str]:
    """Runs `code`; whether it succeeded, and its stdout, or the last lines of its stderr."""
    done = subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(),
        cwd=cwd,
    )
    if done.returncode == 0:
        return True, done.stdout.strip()
    return False, "\n".join(done.stderr.strip().splitlines()[-3:])


def venv_version(venv: Path) -> tuple[int, ...] | None:
    """The Python version of a working venv with pip, else None."""
    if not venv_python(venv).exists():
        return None
    ok, text = python_says(venv_python(venv), "import pip, sys; print(*sys.version_info[:3])")
    return tuple(int(part) for part in text.split()) if ok else None


def ensure_venv(venv: Path, *, chosen_by_user: bool) -> None:
    """Keeps a working venv, else makes one with the running Python."""
    here = ".".join(map(str, sys.version_info[:3]))
    version = venv_version(venv)
    if version:
        text = ".".join(map(str, version))
        check_python(version)
        if chosen_by_user and version[:2] != sys.version_info[:2]:
            raise InstallError(
                f"{venv} holds Python {text}, PYTHON asks for {here}. Remove it first"
                " (make clean-all), then run make install again."
            )
        say(f"using the environment {venv} (Python {text})")
        return
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise InstallError(f"{venv} exists and is no Python environment. Move it away.")
        say(f"{venv} does not run (interrupted, or its Python is gone): making it anew")
        shutil.rmtree(venv)
    say(f"making {venv} with Python {here} ({sys.executable})")
    make_venv(venv)


def make_venv(venv: Path) -> None:
    """By `venv`; where ensurepip is missing, by virtualenv (installed, or fetched by pip)."""
    ok, _ = python_says(sys.executable, "import ensurepip, venv")
    if ok:
        run_or_raise([sys.executable, "-m", "venv", str(venv)], "making the environment failed")
        return
    if python_says(sys.executable, "import virtualenv")[0]:
        say("ensurepip is missing; using virtualenv")
        run_or_raise([sys.executable, "-m", "virtualenv", str(venv)], "virtualenv failed")
        return
    if python_says(sys.executable, "import pip")[0]:
        say("ensurepip is missing; fetching virtualenv with pip")
        with tempfile.TemporaryDirectory() as folder:
            lock = ROOT / "requirements" / "virtualenv.lock"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
            run_or_raise([*command, "--require-hashes", "-r", str(lock)], "fetching virtualenv")
            run_or_raise(
                [sys.executable, "-m", "virtualenv", str(venv)],
                "virtualenv failed",
                {"PYTHONPATH": folder},
            )
        return
    raise InstallError(
        "this Python has no ensurepip, virtualenv or pip, so no environment can be made."
        " On Debian and Ubuntu: apt-get install python3-venv"
    )


def run_or_raise(command: list[str], what: str, extra: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**clean_environment(), **(extra or {})}
    )
    if done.returncode:
        raise InstallError(f"{what}:\n{explain(done.stdout + done.stderr)}")


def site_packages(venv: Path) -> Path:
    ok, text = python_says(
        venv_python(venv), "import sysconfig; print(sysconfig.get_path('purelib'))"
    )
    if not ok:
        raise InstallError(f"{venv} does not run:\n{text}")
    return Path(text)


# --- pip -----------------------------------------------------------------------------------------


def explain(output: str) -> str:
    """The error lines of pip's output, then cause and fix where they are known."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [
        line.strip()
        for line in lines
        if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE) and "error originates" not in line
    ]
    shown = "\n".join(f"  | {line[:300]}" for line in list(dict.fromkeys(errors or lines))[-8:])
    for pattern, cause, fix in DIAGNOSES:
        if re.search(pattern, output):
            return f"{shown}\n  cause: {cause}\n  fix:   {fix}"
    return f"{shown}\n  INSTALL.md lists known errors by their text."


def pip(venv: Path, arguments: list[str], what: str) -> None:
    """Runs the venv's pip; full output to `.venv/install.log`, the essence to the terminal."""
    log = venv / "install.log"
    command = [str(venv_python(venv)), "-m", "pip", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=clean_environment(),
    )
    output = []
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        for line in process.stdout:
            file.write(line)
            output.append(line)
            # Only the large files: sixty small ones would hide them.
            if re.search(r"Downloading .*\((\d{3,}(\.\d+)? MB|[\d.]+ GB)\)", line):
                say(f"  {line.strip()}")
            elif line.startswith("Installing collected packages"):
                say(f"  installing {line.count(',') + 1} packages")
    if process.wait():
        raise InstallError(f"{what} failed:\n{explain(''.join(output))}\n  full output: {log}")


def lock_entries(text: str, names: list[str]) -> str:
    """The entries of `names` (all their markers) out of a lock with hashes."""
    # An entry starts at the margin; its hashes are indented below it.
    entries = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", text, re.MULTILINE)
    by_name = [(re.split(r"[=\s;]", entry)[0], entry) for entry in entries]
    missing = set(names) - {name for name, _ in by_name}
    if missing:
        raise InstallError(f"the lock has no entry for {sorted(missing)}")
    return "\n".join(entry for name, entry in by_name if name in names) + "\n"


def install_entries(venv: Path, names: list[str], *options: str) -> None:
    """Installs some entries of the lock, by hash and without dependencies."""
    lock = (ROOT / "requirements" / "app.lock").read_text(encoding="utf-8")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(lock_entries(lock, names))
        file.flush()
        arguments = ["install", "--no-deps", "--require-hashes", *options, "-r", file.name]
        pip(venv, arguments, f"installing {', '.join(names)}")


def install_lock(venv: Path) -> None:
    """Everything in the lock, by hash. Source packages are built with the lock's setuptools."""
    say("installing the locked packages (2 to 5 minutes when they are new)")
    install_entries(venv, ["packaging", "setuptools", "wheel"])
    lock = ROOT / "requirements" / "app.lock"
    pip(
        venv,
        ["install", "--require-hashes", "--no-build-isolation", "-r", str(lock)],
        "installing requirements/app.lock",
    )


def damaged_distributions(packages: Path) -> list[Path]:
    """`.dist-info` folders that pip did not finish, or whose files are gone or cut.

    pip writes RECORD last; a package without it, or with files missing, still counts as installed
    for pip and would never be mended.
    """
    damaged = []
    for info in sorted(packages.glob("*.dist-info")):
        try:
            lines = (info / "RECORD").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            damaged.append(info)
            continue
        for line in lines:
            name, _, size = line.rsplit(",", 2)
            name = name.strip('"').replace('""', '"')
            # Byte code comes and goes; the project's own record has no sizes that matter.
            if not size or name.endswith(".pyc"):
                continue
            try:
                intact = (packages / name).stat().st_size == int(size)
            except OSError:
                intact = False
            if not intact:
                damaged.append(info)
                break
    return damaged


def forget_damaged(packages: Path) -> None:
    """Makes pip install damaged packages again, and clears what an interrupted pip left."""
    remove_stray_tools(packages)
    for info in damaged_distributions(packages):
        say(f"{info.name.removesuffix('.dist-info')} is incomplete: installing it again")
        shutil.rmtree(info)
        if info.name.startswith(("detectron2-", "sal_detectron2-")):
            # It may still import with files missing, and would then be kept.
            shutil.rmtree(packages / "detectron2", ignore_errors=True)
    for leftover in packages.glob("~*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def check_space(venv: Path) -> None:
    """InstallError when the large packages are not there yet and would not fit."""
    free = shutil.disk_usage(venv).free
    if free < NEEDED_BYTES and not any(site_packages(venv).glob("torch-*.dist-info")):
        raise InstallError(
            f"{free / 1e9:.1f} GB free where {venv} lies; {NEEDED_BYTES / 1e9:.0f} GB are needed"
            " (5 GB stay). Free some space, or put the project on a larger disk."
        )


# --- torch and Detectron2 ------------------------------------------------------------------------

PAIR_CHECK = """
import json, torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
kept = torchvision.ops.nms(boxes, torch.tensor([0.2, 0.9]), 0.5)
assert kept.tolist() == [1], kept
print(json.dumps([torch.__version__, torchvision.__version__, torch.cuda.is_available()]))
"""

DETECTRON2_CHECK = """
import json, warnings
warnings.simplefilter("ignore")
import detectron2, detectron2.config, detectron2.data, detectron2.engine, detectron2.modeling
try:
    import detectron2._C
    compiled = True
except ImportError:
    compiled = False
print(json.dumps([detectron2.__version__, compiled]))
"""


def check_torch_pair(venv: Path) -> None:
    """Runs one compiled torchvision operator; puts the lock's pair back if that fails."""
    ok, text = python_says(venv_python(venv), PAIR_CHECK)
    if not ok:
        say("torch and torchvision do not fit together: installing the locked pair again")
        install_entries(venv, ["torch", "torchvision"], "--force-reinstall")
        ok, text = python_says(venv_python(venv), PAIR_CHECK)
    if not ok:
        raise InstallError(
            f"torch and torchvision do not work together:\n  | {text}\n  cause: they come from"
            " different channels (one CPU only, one CUDA)\n  fix:   make clean-all install,"
            " without an extra index for torch in pip's configuration"
        )
    torch, torchvision, cuda = json.loads(text)
    device = "a CUDA device is usable" if cuda else "no CUDA device: everything runs on the CPU"
    say(f"torch {torch} and torchvision {torchvision} work together; {device}")


def probe_detectron2(venv: Path) -> tuple[str, bool] | None:
    """(version, has compiled operators) of an importable Detectron2, else None."""
    ok, text = python_says(venv_python(venv), DETECTRON2_CHECK)
    if not ok:
        return None
    version, compiled = json.loads(text.splitlines()[-1])
    return version, compiled


def check_commit(commit: str) -> None:
    """InstallError unless `commit` is "" or looks like a commit."""
    if commit and not re.fullmatch(r"[0-9a-f]{7,40}", commit):
        raise InstallError(
            f"DETECTRON2_COMMIT={commit!r} is no commit: give 7 to 40 hexadecimal digits."
        )


def choose_detectron2(found: tuple[str, bool] | None, commit: str, installed_commit: str) -> str:
    """What to do: "keep" the importable one, build the "commit" asked for, or the "wheel"."""
    if found and commit in ("", installed_commit):
        return "keep"
    return "commit" if commit else "wheel"


def ensure_detectron2(venv: Path, commit: str, installed_commit: str) -> str:
    """Keeps, builds or unpacks Detectron2; returns the commit it was built from, or ""."""
    packages = site_packages(venv)
    found = probe_detectron2(venv)
    choice = choose_detectron2(found, commit, installed_commit)
    if choice == "keep":
        remove_stray_tools(packages)
        source, commit = "already there, kept", installed_commit
    elif choice == "commit":
        install_detectron2_commit(venv, commit)
        source = f"built from the official repository at {commit}"
    else:
        install_detectron2_wheel(venv, packages)
        source = "Python part from the pinned PyPI wheel sal-detectron2 0.7.2"
    found = probe_detectron2(venv)
    if not found:
        _, text = python_says(venv_python(venv), DETECTRON2_CHECK)
        raise InstallError(f"Detectron2 was installed but does not import:\n{text}")
    version, compiled = found
    say(f"Detectron2 {version}: {source}")
    if not compiled:
        say(
            "  without its compiled operators: no Detectron2 deformable convolution, rotated"
            " boxes or fast COCO box evaluation. This project uses none of them."
        )
    return commit


def install_detectron2_wheel(venv: Path, packages: Path) -> None:
    """Unpacks the pinned wheel beside site-packages and moves its packages in."""
    lock = ROOT / "requirements" / "detectron2.lock"
    with tempfile.TemporaryDirectory(prefix="detectron2-", dir=venv) as folder:
        # The wheel is tagged cp310 for a compiled module that is not needed.
        target = ["--target", folder, "--python-version", "3.10", "--implementation", "cp"]
        options = ["--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes"]
        pip(venv, ["install", *options, *target, "-r", str(lock)], "installing Detectron2")
        remove_stray_tools(Path(folder))
        uninstall_detectron2(venv, packages)
        # The .dist-info last: with it the package counts as installed.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == ".dist-info"):
            shutil.move(str(part), str(packages / part.name))


def install_detectron2_commit(venv: Path, commit: str) -> None:
    """Builds the official repository at `commit` against the environment's torch."""
    if not shutil.which("git"):
        raise InstallError("DETECTRON2_COMMIT needs git: apt-get install git")
    say(f"building Detectron2 at {commit} (3 to 5 minutes, needs a C++ compiler)")
    with tempfile.TemporaryDirectory(prefix="detectron2-", dir=venv) as folder:
        source = f"git+{DETECTRON2_REPOSITORY}@{commit}"
        # Its setup.py imports torch, which an isolated build does not have.
        options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
        pip(venv, ["wheel", *options, source], "building Detectron2")
        (wheel,) = Path(folder).glob("*.whl")
        uninstall_detectron2(venv, site_packages(venv))
        pip(venv, ["install", "--no-deps", str(wheel)], "installing Detectron2")


def uninstall_detectron2(venv: Path, packages: Path) -> None:
    """Two distributions share the import package; neither may be left beside the other."""
    pip(venv, ["uninstall", "--yes", *DETECTRON2_NAMES], "removing the old Detectron2")
    if (packages / "detectron2").exists():
        shutil.rmtree(packages / "detectron2")


def remove_stray_tools(packages: Path) -> bool:
    """Removes the top-level package `tools` that the sal-detectron2 wheel drops beside Detectron2.

    It would shadow this project's `tools`. Only files whose hash the wheel's RECORD names are
    removed, and their lines in RECORD; a `tools` package of anybody else stays. Returns whether
    something was removed.
    """
    removed = False
    for record in packages.glob("sal_detectron2-*.dist-info/RECORD"):
        kept_lines = []
        for line in record.read_text(encoding="utf-8").splitlines():
            name, digest, _ = line.rsplit(",", 2)
            if not name.startswith("tools/"):
                kept_lines.append(line)
                continue
            path = packages / name
            if digest and path.is_file() and record_hash(path) == digest:
                path.unlink()
                removed = True
        record.write_text("\n".join(kept_lines) + "\n", encoding="utf-8")
    stray = packages / "tools"
    if removed:
        shutil.rmtree(stray / "__pycache__", ignore_errors=True)
        if not any(stray.iterdir()):
            stray.rmdir()
    return removed


def record_hash(path: Path) -> str:
    """A file's hash as a wheel's RECORD writes it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def install_project(venv: Path) -> None:
    """This project, editable, without isolation (setuptools is in the lock)."""
    pip(
        venv,
        ["install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        "installing this project",
    )
    # From elsewhere, so that the import does not succeed by the working directory.
    with tempfile.TemporaryDirectory() as folder:
        code = "import cpr, cpr_deploy; print(cpr.__file__, cpr_deploy.__file__)"
        ok, text = python_says(venv_python(venv), code, cwd=Path(folder))
    if not ok:
        raise InstallError(f"the project was installed but does not import:\n{text}")


# --- all of it -----------------------------------------------------------------------------------


def read_stamp(venv: Path) -> dict:
    try:
        stamp = json.loads((venv / "cpr-install.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: dict) -> None:
    temporary = venv / "cpr-install.json.new"
    temporary.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, venv / "cpr-install.json")


def install(venv: Path, *, commit: str, chosen_by_user: bool) -> None:
    """Brings `venv` up to date, or finds that it is."""
    check_python(sys.version_info[:3])
    check_commit(commit)
    stamp = read_stamp(venv)
    installed_commit = str(stamp.get("detectron2_commit", ""))
    current = fingerprint(ROOT, commit or installed_commit)
    if stamp.get("fingerprint") == current and venv_python(venv).exists() and not chosen_by_user:
        say(f"{venv} is up to date (Python {stamp.get('python')})")
        return

    begin = time.monotonic()
    ensure_venv(venv, chosen_by_user=chosen_by_user)
    if stamp.get("fingerprint") == current:
        say(f"{venv} is up to date")
        return
    # From here on the environment counts as unfinished until the new stamp is written.
    write_stamp(venv, {"detectron2_commit": installed_commit})
    (venv / "install.log").unlink(missing_ok=True)
    check_space(venv)
    forget_damaged(site_packages(venv))
    install_lock(venv)
    check_torch_pair(venv)
    commit = ensure_detectron2(venv, commit, installed_commit)
    install_project(venv)
    python = ".".join(map(str, venv_version(venv) or ()))
    write_stamp(
        venv,
        {"fingerprint": fingerprint(ROOT, commit), "python": python, "detectron2_commit": commit},
    )
    say(f"done in {time.monotonic() - begin:.0f} s; run things with {venv_python(venv)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="DETECTRON2_COMMIT=<commit> in the environment builds the official Detectron2 at"
        " that commit instead of unpacking the pinned PyPI wheel (needs git and a C++ compiler).",
    )
    parser.add_argument(
        "--venv", type=Path, default=ROOT / ".venv", help="the environment's folder [.venv]"
    )
    parser.add_argument(
        "--python-chosen",
        action="store_true",
        help="the running Python was asked for by name: refuse an environment of another one",
    )
    arguments = parser.parse_args()
    try:
        install(
            Path(os.path.abspath(arguments.venv)),
            commit=os.environ.get("DETECTRON2_COMMIT", "").strip(),
            chosen_by_user=arguments.python_chosen,
        )
    except InstallError as error:
        print(f"install: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"install: error:\n{explain(f'{error}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("install: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
