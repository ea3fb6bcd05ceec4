"""Reading and writing files so that nothing is half written and every error can be acted on."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import orjson

MAX_JSON_BYTES = 4 << 30
# Records that are encoded at a time: few calls, and little text in memory.
_CHUNK = 1000

# Errors of the operating system that a user can mend.
OS_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another output folder",
    errno.EDQUOT: "your quota is used up; free some space or choose another output folder",
    errno.EFBIG: "the file gets larger than is allowed here; choose another output folder",
    errno.EACCES: "no permission; choose a path that you may read or write",
    errno.EPERM: "no permission; choose a path that you may read or write",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EISDIR: "is a folder; give the name of a file",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; choose another path",
    errno.EEXIST: "is a file where a folder is needed; choose another path",
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Control characters, and halves of characters that no encoding can write.
_BROKEN_TEXT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class InputError(ValueError):
    """Bad input. The text names the file, the record where there is one, and the fix."""


def explain(error: BaseException) -> str | None:
    """The line that tells a user what to mend, or None if the error is a defect of the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in OS_REASONS:
        where = f"{error.filename}: " if error.filename else ""
        return where + OS_REASONS[error.errno]
    return None


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` if the block succeeds.

    The suffix is kept because image and video writers choose their format by it. On any error the
    temporary file is removed and an existing `path` stays as it was. Errors name `path`.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not path.is_file():
            # Renaming over a device such as /dev/null would replace it.
            raise InputError(f"{path}: is a folder or a device. Give the name of a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        # The start of the name is enough to see what it will be; all of it may be too long.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; the result gets the permissions of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is None or error.errno in _FULL or str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def set_aside(path: str | os.PathLike) -> Path | None:
    """Renames what an earlier run has left at `path`: out.mp4 -> out-1.mp4, the next free number.

    For files that grow in place. Returns the new path; None if there was nothing but an empty file,
    or what is no file (a pipe).
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        return None
    for number in itertools.count(1):
        other = path.with_name(f"{path.stem}-{number}{path.suffix}")
        with contextlib.suppress(FileExistsError):
            os.link(path, other)  # unlike renaming it never replaces
            path.unlink()
            return other
    raise AssertionError


def check_outputs(
    outputs: Iterable[str | os.PathLike | None], inputs: Iterable[str | os.PathLike | None] = ()
) -> None:
    """Before long work: are all of these files writable, and none of them an input?

    Nothing is written. None is left out.

    Raises:
        InputError: an output is one of the inputs or another output, a folder, or in a folder that
            cannot be written to.
    """
    taken = {os.path.realpath(path): "is read by this command" for path in inputs if path}
    for output in outputs:
        if output is None:
            continue
        path = Path(output)
        use = taken.get(os.path.realpath(path))
        if use:
            raise InputError(f"{path}: {use} and would be overwritten. Give another output.")
        taken[os.path.realpath(path)] = "is given for two outputs"
        if _is_other_than(path, Path.is_file):
            raise InputError(f"{path}: is a folder or a device. Give the name of a file.")
        _check_writable(path.parent, path)


def check_output_folder(
    folder: str | os.PathLike, inputs: Iterable[str | os.PathLike | None] = ()
) -> None:
    """As `check_outputs`, for a folder that files are written into."""
    folder = Path(folder)
    if any(path and os.path.realpath(path) == os.path.realpath(folder) for path in inputs):
        raise InputError(f"{folder}: is read by this command. Give another output folder.")
    _check_writable(folder, folder)


def _is_other_than(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return path.exists() and not kind(path)
    except OSError as error:
        raise InputError(f"{path}: {OS_REASONS.get(error.errno, error)}") from None


def _check_writable(folder: Path, what: Path) -> None:
    """InputError about `what` unless files can be made in `folder`, which need not exist yet."""
    for ancestor in (folder, *folder.parents):
        if _is_other_than(ancestor, Path.is_dir):
            raise InputError(f"{what}: {ancestor} is a file, not a folder. Choose another path.")
        if ancestor.is_dir():
            if not os.access(ancestor, os.W_OK | os.X_OK):
                raise InputError(
                    f"{what}: no permission to write in {ancestor}. Choose another output folder."
                )
            return


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = None) -> None:
    """Writes `value` as JSON, atomically. NaN and infinity are refused (ValueError).

    Without `indent` the text is never held as a whole: data sets may have a million records.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if indent is None:
            file.writelines(_pieces(value))
        else:
            file.write(json.dumps(value, indent=indent, allow_nan=False).encode())
        file.write(b"\n")


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        separator = b"{"
        for key, item in value.items():
            yield separator + _encode(key) + b": "
            yield from _list_pieces(item) if isinstance(item, list) else (_encode(item),)
            separator = b",\n"
        yield b"}"
    elif isinstance(value, list):
        yield from _list_pieces(value)
    else:
        yield _encode(value)


def _list_pieces(items: list) -> Iterator[bytes]:
    yield b"["
    for start in range(0, len(items), _CHUNK):
        yield (b",\n" if start else b"") + _encode(items[start : start + _CHUNK])[1:-1]
    yield b"]"


def _encode(value: Any) -> bytes:
    """As JSON: by orjson, which is faster, where it does the same as Python's own module."""
    try:
        encoded = orjson.dumps(value)
    except TypeError:  # numbers of numpy, whole numbers beyond 64 bits, keys that are no text
        encoded = b"null"
    # NaN and infinity become null there; here they are refused.
    if b"null" in encoded:
        return json.dumps(value, allow_nan=False).encode()
    return encoded


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; InputError if it is missing, too large, cut, not JSON or holds NaN."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: is not a file. Give the path of a JSON file.")
        if size > MAX_JSON_BYTES:
            raise InputError(f"{path}: {size} bytes is more than {MAX_JSON_BYTES}. Split the file.")
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8 JSON.") from None

    constants = []

    def note(constant: str) -> float:
        constants.append(constant)
        return float(constant)

    try:
        # Not orjson: on large files it needs half as much memory again.
        with _no_collector():
            value = json.loads(text, parse_constant=note)
    except json.JSONDecodeError as error:
        text = text.strip()
        cut = not text or (text[0] in "{[" and text[-1] not in "}]")
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}."
            + (" The file seems cut: copy it again." if cut else " Correct it there.")
        ) from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be an annotation file.") from None
    except ValueError as error:  # Python's limit for the digits of a whole number
        raise InputError(f"{path}: not usable as JSON ({error}). Correct that number.") from None
    if constants:
        where = find_non_finite(value) or "a record"
        raise InputError(
            f"{path}: {where} is {constants[0]}, which is not a number. Correct or remove it."
        )
    return value


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """Many new records would make Python's collector look through all those before, in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def find_non_finite(value: Any) -> str | None:
    """Where a JSON value first holds NaN or infinity: "annotations[3] (id 17).point[0]"."""
    stack = [("", value)]
    while stack:
        where, item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return where.removeprefix(".") or "the value"
        if isinstance(item, dict):
            if "id" in item:
                where += f" (id {item['id']!r})"
            children = [(f"{where}.{key}", child) for key, child in item.items()]
        elif isinstance(item, (list, tuple)):
            children = [(f"{where}[{index}]", child) for index, child in enumerate(item)]
        else:
            continue
        stack.extend(reversed(children))
    return None


def is_broken_text(text: str) -> bool:
    """Whether a name holds control characters or halves of characters, which nothing can show."""
    return _BROKEN_TEXT.search(text) is not None


def name_problem(name: str) -> str | None:
    """What is wrong with a file name in an annotation file, which is relative to a folder."""
    windows = PureWindowsPath(name)
    if is_broken_text(name):
        return "holds control characters or broken text. Rename the file."
    if windows.drive or windows.root or os.path.isabs(name) or "\\" in name:
        return "leads out of the image folder: write it relative to that, with '/' between folders."
    if not name or ".." in PurePosixPath(name).parts:
        return "leads out of the image folder. Write it relative to that, without '..'."
    return None


def safe_child(root: str | os.PathLike, name: str) -> Path:
    """The path of `name` inside `root`; InputError if it would leave `root` (also by a link)."""
    root = Path(root)
    problem = name_problem(name)
    if problem:
        raise InputError(f"{root}: the file name {name!r} {problem}")
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{path}: is a link that leads out of the image folder {root}. Copy the file there."
        )
    return path


# Imported when they are used: the extra of pyproject.toml that has each.
EXTRAS = {
    "av": "runtime",
    "cv2": "runtime",
    "detectron2": "train",
    "matplotlib": "train",
    "onnx": "export",
    "onnxruntime": "runtime",
    "pyproj": "geo",
    "rasterio": "geo",
    "torch": "train",
}


def run_main(main: Callable[[], int | None]) -> int:
    """Runs a script's `main` and returns its exit code: 2 with one line for bad input."""
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (for example `head`) went away.
        _give_up_stdout()
        return 141
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        _give_up_stdout()
        print(
            f"error: this needs {error.name}, which is not installed. In the repository: `make"
            f' install`, or `pip install ".[{EXTRAS[error.name]}]"` (see INSTALL.md).',
            file=sys.stderr,
        )
        return 2
    except (InputError, OSError) as error:
        reason = explain(error)
        if reason is None:
            raise
        _give_up_stdout()
        print(f"error: {reason}", file=sys.stderr)
        return 2


def _give_up_stdout() -> None:
    """If standard output cannot be written, Python must not try, and complain, again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
