"""Reading and writing files so that nothing is half written and every error can be acted on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

MAX_JSON_BYTES = 4 << 30


class InputError(ValueError):
    """Bad input. The text names the file, the record where there is one, and the fix."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` if the block succeeds.

    The suffix is kept because image and video writers choose their format by it. On any error the
    temporary file is removed and an existing `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; the result gets the permissions of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = None) -> None:
    """Writes `value` as JSON, atomically. NaN and infinity are refused (ValueError)."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=indent, allow_nan=False)
        file.write("\n")


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
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8 JSON.") from None

    def refuse(constant: str) -> None:
        raise InputError(f"{path}: holds {constant}, which is not a number. Remove that record.")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        cut = " The file seems cut: copy it again." if error.pos >= len(text.rstrip()) else ""
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}:"
            f" {error.msg}.{cut}"
        ) from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be an annotation file.") from None


def safe_child(root: str | os.PathLike, name: str) -> Path:
    """The path of `name` inside `root`; InputError if it would leave `root` (also by a link)."""
    root = Path(root)
    windows = PureWindowsPath(name)
    if not name or windows.drive or windows.root or os.path.isabs(name) or "\\" in name:
        raise InputError(
            f"{name!r}: file names must be relative to the image folder {root}, with '/' between"
            " folders."
        )
    path = root / name
    resolved_root = root.resolve()
    if not path.resolve().is_relative_to(resolved_root):
        raise InputError(f"{name!r}: leads out of the image folder {root}. Remove '..' and links.")
    return path


def run_main(main: Callable[[], int | None]) -> int:
    """Runs a script's `main` and returns its exit code: 2 with one line for bad input."""
    try:
        return main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (for example `head`) went away.
        sys.stderr.close()
        return 141
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space or choose another output folder",
            errno.EACCES: "no permission; choose a path that you may read or write",
            errno.EROFS: "the file system is read-only; choose another output folder",
        }
        if error.errno not in reasons:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{reasons[error.errno]}", file=sys.stderr)
        return 2
