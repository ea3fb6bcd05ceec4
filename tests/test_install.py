"""The installer's decisions, with a fake site-packages instead of a real environment."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("installer", ROOT / "tools/install.py")
installer = importlib.util.module_from_spec(specification)
specification.loader.exec_module(installer)
InstallError = installer.InstallError


def add_distribution(packages: Path, name: str, files: dict[str, str]) -> Path:
    """A distribution as pip leaves it; returns its .dist-info."""
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = []
    for file, text in files.items():
        path = packages / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        lines.append(f"{file},{installer.record_hash(path)},{len(text)}")
    lines += [f"{file[:-3]}.cpython-311.pyc,," for file in files]
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")
    return info


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9), (3, 13, 2)])
def test_supported_pythons(version):
    installer.check_python(version)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_other_pythons_are_named_and_refused(version):
    with pytest.raises(InstallError, match=r"Python \d\.\d+\.\d+ is not supported.*PYTHON="):
        installer.check_python(version)


# --- Detectron2 ---


@pytest.mark.parametrize(
    ("found", "commit", "installed_commit", "choice"),
    [
        (("0.6", True), "", "", "keep"),  # the user's own, importable
        (("0.7.2", False), "", "", "keep"),
        (None, "", "", "wheel"),
        (None, "", "02b5c4e", "wheel"),  # was built, broke, not asked for again
        (None, "02b5c4e", "", "commit"),
        (("0.7.2", False), "02b5c4e", "", "commit"),  # asked for by name beats keeping
        (("0.6", True), "02b5c4e", "02b5c4e", "keep"),
        (("0.6", True), "a59f0563", "02b5c4e", "commit"),
    ],
)
def test_choice_of_detectron2(found, commit, installed_commit, choice):
    assert installer.choose_detectron2(found, commit, installed_commit) == choice


@pytest.mark.parametrize("commit", ["main", "02b5c4", "; rm -rf .", "g" * 40, "A59F0563"])
def test_what_is_no_commit_is_refused(commit):
    with pytest.raises(InstallError, match="hexadecimal"):
        installer.check_commit(commit)


def test_an_importable_detectron2_is_kept_and_nothing_is_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installer, "site_packages", lambda venv: tmp_path)
    monkeypatch.setattr(installer, "probe_detectron2", lambda venv: ("0.6", True))
    monkeypatch.setattr(installer, "pip", lambda *arguments: pytest.fail("pip was run"))
    assert installer.ensure_detectron2(tmp_path, "", "") == ""
    said = capsys.readouterr().out
    assert "0.6: already there, kept" in said
    assert "without its compiled" not in said


def fake_wheel_install(arguments: list[str]) -> None:
    """What pip does with the real wheel: detectron2 and a stray `tools` in the target."""
    if arguments[0] == "install":
        target = Path(arguments[arguments.index("--target") + 1])
        files = {"detectron2/__init__.py": "new", "tools/__init__.py": "", "tools/train.py": "d2"}
        add_distribution(target, "sal_detectron2", files)


def test_the_wheel_is_unpacked_without_tools(tmp_path, monkeypatch, capsys):
    packages = tmp_path / "packages"
    add_distribution(packages, "other", {"tools/__init__.py": "", "tools/mine.py": "keep me"})
    (packages / "detectron2").mkdir()
    (packages / "detectron2" / "old.py").write_text("half of an interrupted install")
    answers = iter([None, ("0.7.2", False)])
    monkeypatch.setattr(installer, "site_packages", lambda venv: packages)
    monkeypatch.setattr(installer, "probe_detectron2", lambda venv: next(answers))
    calls = []

    def fake_pip(venv, arguments, what):
        calls.append(arguments)
        fake_wheel_install(arguments)

    monkeypatch.setattr(installer, "pip", fake_pip)
    installer.ensure_detectron2(tmp_path, "", "")

    assert [path.name for path in (packages / "detectron2").iterdir()] == ["__init__.py"]
    assert (packages / "tools" / "mine.py").read_text() == "keep me"
    assert not (packages / "tools" / "train.py").exists()
    assert "tools/" not in (packages / "sal_detectron2-1.0.dist-info" / "RECORD").read_text()
    assert "--require-hashes" in calls[0] and "--no-deps" in calls[0]
    assert str(ROOT / "requirements" / "detectron2.lock") in calls[0]
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]  # no staging left
    said = capsys.readouterr().out
    assert "pinned PyPI wheel" in said
    assert "without its compiled operators" in said


def test_a_failed_download_leaves_the_old_detectron2(tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    add_distribution(packages, "detectron2", {"detectron2/__init__.py": "old"})

    def failing_pip(venv, arguments, what):
        raise InstallError(what)

    monkeypatch.setattr(installer, "pip", failing_pip)
    with pytest.raises(InstallError):
        installer.install_detectron2_wheel(tmp_path, packages)
    assert (packages / "detectron2" / "__init__.py").read_text() == "old"


def test_stray_tools_are_removed(tmp_path):
    add_distribution(tmp_path, "sal_detectron2", {"detectron2/a.py": "a", "tools/b.py": "b"})
    (tmp_path / "tools" / "__pycache__").mkdir()
    assert installer.remove_stray_tools(tmp_path)
    assert not (tmp_path / "tools").exists()
    assert (tmp_path / "detectron2" / "a.py").exists()
    assert not installer.remove_stray_tools(tmp_path)


def test_a_changed_file_in_tools_is_not_the_wheels(tmp_path):
    add_distribution(tmp_path, "sal_detectron2", {"tools/a.py": "a", "tools/b.py": "b"})
    (tmp_path / "tools" / "b.py").write_text("mine")
    assert installer.remove_stray_tools(tmp_path)
    assert [path.name for path in (tmp_path / "tools").iterdir()] == ["b.py"]


def test_tools_of_somebody_else_stay(tmp_path):
    add_distribution(tmp_path, "somebody", {"tools/a.py": "a"})
    assert not installer.remove_stray_tools(tmp_path)
    assert (tmp_path / "tools" / "a.py").exists()


# --- an interrupted install ---


def test_damaged_distributions(tmp_path):
    add_distribution(tmp_path, "whole", {"whole/a.py": "a"})
    unfinished = add_distribution(tmp_path, "unfinished", {"unfinished/a.py": "a"})
    (unfinished / "RECORD").unlink()
    missing = add_distribution(tmp_path, "missing", {"missing/a.py": "a"})
    (tmp_path / "missing/a.py").unlink()
    cut = add_distribution(tmp_path, "cut", {"cut/a.py": "abc"})
    (tmp_path / "cut/a.py").write_text("a")
    assert set(installer.damaged_distributions(tmp_path)) == {unfinished, missing, cut}


def test_damaged_ones_are_forgotten_so_that_pip_installs_them(tmp_path, capsys):
    info = add_distribution(tmp_path, "sal_detectron2", {"detectron2/a.py": "a", "tools/b.py": ""})
    (tmp_path / "detectron2" / "a.py").unlink()
    (tmp_path / "~orch").mkdir()
    installer.forget_damaged(tmp_path)
    assert not info.exists()
    assert not (tmp_path / "detectron2").exists()
    assert not (tmp_path / "~orch").exists()
    assert "sal_detectron2-1.0 is incomplete" in capsys.readouterr().out


def test_a_wheel_whose_tools_were_removed_by_hand_is_whole(tmp_path):
    info = add_distribution(tmp_path, "sal_detectron2", {"detectron2/a.py": "a", "tools/b.py": "b"})
    (tmp_path / "tools" / "b.py").unlink()
    installer.forget_damaged(tmp_path)
    assert info.exists()


def test_an_environment_up_to_date_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    current = installer.fingerprint(ROOT, "")
    installer.write_stamp(tmp_path, {"fingerprint": current, "python": "3.12.1"})
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("something was run"))
    installer.install(tmp_path, commit="", chosen_by_user=False)
    assert "is up to date (Python 3.12.1)" in capsys.readouterr().out


def test_an_unfinished_run_leaves_no_valid_stamp(tmp_path, monkeypatch):
    current = installer.fingerprint(ROOT, "")
    installer.write_stamp(tmp_path, {"fingerprint": f"old {current}", "python": "3.12.1"})
    monkeypatch.setattr(installer, "ensure_venv", lambda venv, chosen_by_user: None)

    def interrupted(venv):
        raise KeyboardInterrupt

    monkeypatch.setattr(installer, "check_space", interrupted)
    with pytest.raises(KeyboardInterrupt):
        installer.install(tmp_path, commit="", chosen_by_user=False)
    assert "fingerprint" not in installer.read_stamp(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_a_damaged_stamp_counts_as_none(tmp_path, text):
    (tmp_path / "cpr-install.json").write_text(text)
    assert installer.read_stamp(tmp_path) == {}


def test_fingerprint_follows_lock_and_commit(tmp_path):
    for name in installer.FINGERPRINTED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = installer.fingerprint(tmp_path, "")
    assert installer.fingerprint(tmp_path, "02b5c4e") != before
    (tmp_path / "requirements/app.lock").write_text("torch==3")
    assert installer.fingerprint(tmp_path, "") != before


# --- the environment ---


def test_an_environment_of_another_python_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(installer, "venv_version", lambda venv: (3, 11, 0))
    other = sys.version_info[:2] != (3, 11)
    if other:
        with pytest.raises(InstallError, match="make clean-all"):
            installer.ensure_venv(tmp_path, chosen_by_user=True)
    installer.ensure_venv(tmp_path, chosen_by_user=False)


def test_a_foreign_folder_is_not_removed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InstallError, match="no Python environment"):
        installer.ensure_venv(tmp_path, chosen_by_user=False)
    assert (tmp_path / "thesis.txt").exists()


def test_a_broken_environment_is_made_anew(tmp_path, monkeypatch):
    (tmp_path / "pyvenv.cfg").write_text("home = /nowhere")
    made = []
    monkeypatch.setattr(installer, "make_venv", made.append)
    installer.ensure_venv(tmp_path, chosen_by_user=False)
    assert made == [tmp_path]
    assert not tmp_path.exists()


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ({"import ensurepip, venv", "import virtualenv", "import pip"}, ["-m venv"]),
        ({"import virtualenv", "import pip"}, ["-m virtualenv"]),
        ({"import pip"}, ["-m pip install", "-m virtualenv"]),
    ],
)
def test_how_the_environment_is_made(tmp_path, monkeypatch, available, expected):
    commands = []
    monkeypatch.setattr(installer, "python_says", lambda python, code: (code in available, ""))
    monkeypatch.setattr(
        installer, "run_or_raise", lambda command, *rest: commands.append(" ".join(command[1:]))
    )
    installer.make_venv(tmp_path / "venv")
    assert len(commands) == len(expected)
    assert all(command.startswith(start) for command, start in zip(commands, expected, strict=True))


def test_without_any_way_the_debian_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(installer, "python_says", lambda python, code: (False, ""))
    with pytest.raises(InstallError, match="apt-get install python3-venv"):
        installer.make_venv(tmp_path / "venv")


# --- torch and its vision library ---


def test_a_wrong_pair_is_put_right(tmp_path, monkeypatch, capsys):
    answers = iter([(False, "operator torchvision::nms"), (True, '["a", "b", false]')])
    monkeypatch.setattr(installer, "python_says", lambda python, code: next(answers))
    installed = []

    def fake_install(venv, names, *options):
        installed.append((names, options))

    monkeypatch.setattr(installer, "install_entries", fake_install)
    installer.check_torch_pair(tmp_path)
    assert installed == [(["torch", "torchvision"], ("--force-reinstall",))]
    assert "do not fit together" in capsys.readouterr().out


def test_a_pair_that_stays_wrong_is_an_error(tmp_path, monkeypatch):
    text = "operator torchvision::nms does not exist"
    monkeypatch.setattr(installer, "python_says", lambda python, code: (False, text))
    monkeypatch.setattr(installer, "install_entries", lambda *arguments: None)
    with pytest.raises(InstallError, match=f"(?s){text}.*cause:.*fix:"):
        installer.check_torch_pair(tmp_path)


# --- pip ---


def test_lock_entries():
    lock = (
        "# a comment\n"
        "torch==2.11.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "torchvision==0.26.0 \\\n    --hash=sha256:cc\n"
        "scipy==1.17.1 ; python_full_version < '3.12' \\\n    --hash=sha256:dd\n"
        "scipy==1.18.1 ; python_full_version >= '3.12' \\\n    --hash=sha256:ee\n"
    )
    assert installer.lock_entries(lock, ["torch"]) == (
        "torch==2.11.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    )
    assert installer.lock_entries(lock, ["scipy"]).count("scipy==") == 2
    with pytest.raises(InstallError, match="numpy"):
        installer.lock_entries(lock, ["torch", "numpy"])


def test_lock_entries_of_the_real_lock():
    lock = (ROOT / "requirements/app.lock").read_text(encoding="utf-8")
    entries = installer.lock_entries(lock, ["packaging", "setuptools", "wheel"])
    assert len([line for line in entries.splitlines() if not line.startswith(" ")]) == 3
    assert entries.count("--hash") == 6


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "not the one in the lock"),
        ("SSLError(SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED", "not trusted"),
        ("ERROR: No matching distribution found for torch==2.11.0", "no file of that version"),
        ("NewConnectionError: [Errno -3] Temporary failure in name resolution", "be reached"),
        ("ERROR: [Errno 13] Permission denied: '/usr/lib'", "may not be written"),
        ("error: command '/usr/bin/g++' failed with exit code 1", "compiling failed"),
        ("fatal: unable to access 'https://...': Could not resolve host", "cannot be fetched"),
    ],
)
def test_known_failures_are_explained(output, cause):
    text = installer.explain(f"Collecting x\n{output}\n")
    assert output in text
    assert cause in text
    assert "fix:" in text


def test_unknown_failures_point_to_install_md():
    text = installer.explain("something new\n")
    assert "something new" in text
    assert "INSTALL.md" in text


def test_a_full_disk_is_refused_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(installer, "site_packages", lambda venv: tmp_path)
    usage = installer.shutil.disk_usage(tmp_path)._replace(free=2 * 10**9)
    monkeypatch.setattr(installer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InstallError, match=r"2\.0 GB free.*8 GB are needed"):
        installer.check_space(tmp_path)
    (tmp_path / "torch-2.11.0.dist-info").mkdir()
    installer.check_space(tmp_path)


# --- as people call it ---


def run_make(*arguments: str, environment: dict[str, str] | None = None):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_make_refuses_a_python_that_is_none(tmp_path):
    done = run_make("install", "PYTHON=no-such-python", f"VENV={tmp_path}/venv")
    assert done.returncode == 2
    assert "no Python 3.11, 3.12 or 3.13 found as PYTHON=no-such-python" in done.stderr
    assert "apt-get install python3" in done.stderr


def test_make_skips_a_python_of_another_version(tmp_path):
    """A command by the right name that is too old, or that refuses to run, is not taken."""
    for name in ("python3", "python3.13"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3.12").write_text("#!/bin/sh\ncase $1 in -c) ;; *) echo took $0 $*;; esac\n")
    (tmp_path / "python3.12").chmod(0o755)
    done = run_make("install", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"took {tmp_path}/python3.12 tools/install.py --venv .venv\n"


def test_make_help_lists_every_target():
    done = run_make("help")
    for target in ("install", "demo", "test", "test-slow", "lint", "clean"):
        assert f"make {target} " in done.stdout
