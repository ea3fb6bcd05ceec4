import builtins
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cpr_deploy import files
from cpr_deploy.files import (
    InputError,
    atomic_path,
    check_output_folder,
    check_outputs,
    explain,
    find_non_finite,
    read_json,
    run_main,
    safe_child,
    set_aside,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": [1.5, "ä"]})
    assert read_json(path) == {"a": [1.5, "ä"]}
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with atomic_path(tmp_path / ("x" * 240 + ".onnx")) as temporary:
        assert temporary.suffix == ".onnx"


@pytest.mark.parametrize("error", [RuntimeError("defect"), KeyboardInterrupt(), SystemExit(3)])
def test_interrupted_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path, monkeypatch, capsys, code):
    path = tmp_path / "a.json"
    path.write_text("old")

    class FullDisk:
        """A file whose buffer cannot be written when it is closed."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()
            raise OSError(code, os.strerror(code))

        def write(self, text):
            self.file.write(text)

    real_open = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: FullDisk(real_open(*a, **k)))
    assert run_main(lambda: write_json(path, [1, 2])) == 2
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and "choose another output folder" in error
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_no_permission_names_the_output(tmp_path, monkeypatch, capsys):
    def denied(*_, dir, **__):
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/.a-1234.txt")

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    assert run_main(lambda: write_text(tmp_path / "a.txt", "new")) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'a.txt'}: no permission")
    assert names(tmp_path) == []


def test_neither_folders_nor_devices_are_replaced(tmp_path):
    device = tmp_path / "pipe"
    os.mkfifo(device)
    for path in (tmp_path, device):
        with pytest.raises(InputError, match="is a folder or a device"):
            write_text(path, "x")
        with pytest.raises(InputError, match="is a folder or a device"):
            check_outputs([path])
    assert names(tmp_path) == ["pipe"]


def test_check_outputs(tmp_path, monkeypatch):
    source, link = tmp_path / "in.json", tmp_path / "link.json"
    source.write_text("{}")
    link.symlink_to(source)
    check_outputs([tmp_path / "new" / "out.json", None], [source, None])
    assert names(tmp_path) == ["in.json", "link.json"], "nothing is made"
    for output in (source, tmp_path / "new" / ".." / "in.json", link):
        with pytest.raises(InputError, match=r"\.json: is read by this command"):
            check_outputs([output], [source])
    with pytest.raises(InputError, match="is given for two outputs"):
        check_outputs([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(InputError, match=r"x\.json: .*in\.json is a file, not a folder"):
        check_outputs([source / "x.json"])
    with pytest.raises(InputError, match="name is too long"):
        check_outputs([tmp_path / ("x" * 300)])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"out\.json: no permission to write in"):
        check_outputs([tmp_path / "new" / "out.json"])


def test_check_output_folder(tmp_path, monkeypatch):
    check_output_folder(tmp_path / "new" / "out", [tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(InputError, match="is read by this command"):
        check_output_folder(tmp_path, [tmp_path / "." / ""])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission"):
        check_output_folder(tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("", "seems cut", id="empty"),
        pytest.param('{"a": [1, 2', "line 1, column 12.*seems cut", id="cut"),
        pytest.param('{"a": "tex', "seems cut", id="cut in a text"),
        pytest.param('{"a": 1,}', "line 1, column 9.*Correct it there", id="not JSON"),
        pytest.param("hello", "not valid JSON(?!.*cut)", id="text"),
        pytest.param("[" * 100_000, "nested too deeply", id="deep nesting"),
        pytest.param("[" + "9" * 5000 + "]", "4300", id="digits without end"),
        pytest.param(b"\x80\x02", "not UTF-8", id="binary"),
        pytest.param('{"a": 1}'.encode("utf-16"), "not UTF-8", id="another encoding"),
        pytest.param(
            '{"boxes": [{"id": 7, "point": [1, NaN]}]}',
            r"boxes\[0\] \(id 7\)\.point\[1\] is NaN",
            id="NaN",
        ),
        pytest.param("[-Infinity]", r"\[0\] is -Infinity", id="infinity"),
        pytest.param('{"a": NaN, "a": 1}', "a record is NaN", id="hidden NaN"),
    ],
)
def test_bad_json(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"(?s)^{path}: .*{message}"):
        read_json(path)


def test_json_places(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")  # as Windows programs write it
    assert read_json(tmp_path / "a.json") == [1]
    for path in (tmp_path / "none.json", tmp_path / "a.json" / "b.json"):
        with pytest.raises(InputError, match="no such file"):
            read_json(path)
    with pytest.raises(InputError, match="is not a file"):
        read_json(tmp_path)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 3)
    with pytest.raises(InputError, match="6 bytes is more than 3"):
        read_json(tmp_path / "a.json")


def test_find_non_finite():
    assert find_non_finite({"a": [1, 2.5, "NaN", None, True]}) is None
    assert find_non_finite(float("nan")) == "the value"
    assert find_non_finite({"a": [{"id": 3, "b": float("inf")}]}) == "a[0] (id 3).b"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "C:\\a",
        "C:a",
        "a\\b",
        "a\0b",
        "a\nb",
        "\ud800",
    ],
)
def test_unsafe_names(tmp_path, name):
    with pytest.raises(InputError):
        safe_child(tmp_path, name)


def test_safe_names_and_links(tmp_path):
    assert safe_child(tmp_path, "a/ö b.png") == tmp_path / "a" / "ö b.png"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link that leads out"):
        safe_child(tmp_path / "in", "link/a.png")


def test_explain():
    assert explain(InputError("x")) == "x"
    assert explain(OSError(errno.ENOSPC, "No space left", "a.json")).startswith("a.json: the disk")
    assert explain(OSError(errno.EBADF, "Bad file descriptor")) is None
    assert explain(ValueError("a defect")) is None


def test_exit_codes(capsys):
    def fails(error):
        def main():
            raise error

        return main

    assert run_main(lambda: None) == 0 and run_main(lambda: 1) == 1
    assert run_main(fails(KeyboardInterrupt())) == 130
    assert run_main(fails(InputError("a.json: wrong"))) == 2
    assert capsys.readouterr().err == "interrupted\nerror: a.json: wrong\n"
    assert run_main(fails(ModuleNotFoundError("No module named 'av'", name="av"))) == 2
    message = capsys.readouterr().err
    assert "needs av" in message and 'pip install ".[runtime]"' in message
    defects = [ValueError("defect"), OSError(errno.EBADF, "Bad"), ModuleNotFoundError(name="cpr.x")]
    for defect in defects:
        with pytest.raises(type(defect)):
            run_main(fails(defect))


@pytest.mark.parametrize(("stdout", "code"), [("/dev/full", 2), ("closed pipe", 141)])
def test_standard_output_that_cannot_be_written(stdout, code):
    """One line or none, and no second complaint of Python at its exit."""
    if stdout == "/dev/full":
        if not Path(stdout).exists():
            pytest.skip("this system has no /dev/full")
        target = os.open(stdout, os.O_WRONLY)
    else:
        reading, target = os.pipe()
        os.close(reading)
    script = "from cpr_deploy.files import run_main; raise SystemExit(run_main(lambda: print(1)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy")},
    )
    os.close(target)
    assert done.returncode == code
    expected = "error: the disk is full; free some space or choose another output folder\n"
    assert done.stderr == (expected if code == 2 else "")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert names(tmp_path) == []


def test_an_earlier_file_is_set_aside(tmp_path):
    path = tmp_path / "out.mp4"
    assert set_aside(path) is None
    path.touch()
    assert set_aside(path) is None
    for number in (1, 2):
        path.write_text(f"run {number}")
        assert set_aside(path) == tmp_path / f"out-{number}.mp4"
    assert names(tmp_path) == ["out-1.mp4", "out-2.mp4"]
    assert (tmp_path / "out-1.mp4").read_text() == "run 1"
    os.mkfifo(tmp_path / "pipe")
    assert set_aside(tmp_path / "pipe") is None
