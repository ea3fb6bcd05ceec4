"""Videos as sources of a data set: found in folders, named, and known again."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cpr_deploy.files import InputError

from ..point_json import Problem
from .video_frames import VideoReader

VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov")
    + (".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv")
)
# Bytes at both ends of a video by which it is known again.
_ENDS = 1 << 20


class Video(NamedTuple):
    """A source. sequence: its name in the data set. fingerprint: of its content."""

    path: Path
    sequence: str
    fingerprint: str
    length: int | None


def find_videos(sources: Sequence[str | os.PathLike]) -> list[Path]:
    """The videos among `sources` and, by their suffix, in the folders among them and below.

    Raises:
        InputError: no such file or folder, a folder without videos, a video given twice.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
            found = [path for path in found if path.is_file()]
            if not found:
                raise InputError(
                    f"{source}: holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}). A folder of"
                    " images is listed by: prepare_points.py deduplicate --image-root."
                )
            paths += found
        elif source.is_file():
            paths.append(source)
        else:
            raise InputError(f"{source}: no such video or folder. Check the path.")
    twice = [path for path, count in Counter(map(os.path.realpath, paths)).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: is given twice. Give each video once.")
    return paths


def open_videos(
    paths: Sequence[Path], *, skip_bad: bool = False
) -> tuple[list[Video], list[Problem]]:
    """Names the sequences of videos, and sees that each can be opened and is a video of its own.

    Raises:
        InputError: a file is no video, two hold the same, or two would have one name (with
            `skip_bad` the first two of these are left out and returned).
    """
    names = _sequence_names(paths)
    videos: list[Video] = []
    skipped: list[Problem] = []
    known: dict[str, Path] = {}
    for path in paths:
        try:
            fingerprint = _fingerprint(path)
            twin = known.setdefault(fingerprint, path)
            if twin is not path:
                raise InputError(
                    f"{path}: is the same video as {twin}; their frames might land in the training"
                    " and in the test part. Leave one out."
                )
            with VideoReader(path, threads=1) as reader:
                videos.append(Video(path, names[path], fingerprint, reader.length))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(Problem(str(path), str(error).removeprefix(f"{path}: ")))
    return videos, skipped


def _sequence_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The stem of each file; of those that share it, with the name of their folder before it."""

    def safe(text: str) -> str:
        return re.sub(r"[^\w.-]+", "_", text).strip("._") or "video"

    names = {path: safe(path.stem) for path in paths}
    # Case does not count on every file system.
    count = Counter(name.casefold() for name in names.values())
    for path, name in names.items():
        if count[name.casefold()] > 1:
            names[path] = safe(f"{path.absolute().parent.name}_{path.stem}")
    taken: dict[str, Path] = {}
    for path, name in names.items():
        other = taken.setdefault(name.casefold(), path)
        if other is not path:
            raise InputError(
                f"{path}: gets the name {name!r}, as {other} does. Rename one of the two files."
            )
    return names


def _fingerprint(path: Path) -> str:
    """SHA-256 of a video's size, beginning and end: the same wherever the file is copied."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        file.seek(0)
        digest.update(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read(_ENDS))
    return digest.hexdigest()
