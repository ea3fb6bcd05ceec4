"""Which image of a folder a foreign file means, and which files of a folder are annotations."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from cpr_deploy.files import InputError, safe_child

from ..point_json import Problem

BACKSLASH = "\\"
# Folders of annotations, in lower case, and the folders of images beside them.
ANNOTATION_FOLDERS = {"labels", "labeltxt", "annotations", "ground_truth", "ground-truth"}
IMAGE_FOLDERS = ("images", "JPEGImages")
# How archives begin.
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
}
_TAR, _TAR_PLACE = b"ustar", 257
# A text that ends in so many zero bytes, in whatever encoding, was not written to its end.
_ZEROS = 64


class AnnotationFile(NamedTuple):
    """One of the files of a format that has a file for each image."""

    path: Path
    name: str  # relative to the folder that was given, with '/'; for messages


def file_problem(path: Path) -> str | None:
    """What is wrong with an annotation file, as far as its first and last bytes tell.

    Archives are not read, so nothing in them can be written anywhere. A file with a hole at its end
    may be far larger than what was copied into it.
    """
    with open(path, "rb") as file:
        head = file.read(_TAR_PLACE + len(_TAR))
        found = [what for start, what in _ARCHIVES.items() if head.startswith(start)]
        if head[_TAR_PLACE:] == _TAR:
            found.append("a tar archive")
        if found:
            return f"is {found[0]}. Unpack it and give the annotations in it."
        if path.suffix.lower() != ".mat" and file.seek(0, os.SEEK_END) >= _ZEROS:
            file.seek(-_ZEROS, os.SEEK_END)
            if not any(file.read()):
                return "ends in zero bytes: it seems cut. Copy it again."
    return None


def annotation_files(path: Path, suffixes: tuple[str, ...]) -> Iterator[AnnotationFile | Problem]:
    """The annotation files in a folder and below, by name; or the one file that `path` is.

    A link that leads out of the folder, an archive and a file that was not copied whole are each a
    `Problem`.

    Raises:
        InputError: no such file or folder, or no annotation file in it.
    """
    if path.is_file():
        yield AnnotationFile(path, path.name)
        return
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder. Check the path.")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise InputError(f"{path}: no annotation file in it ({', '.join(suffixes)}).")
    for file in found:
        name = file.relative_to(path).as_posix()
        try:
            safe_child(path, name)
        except InputError as error:
            yield Problem(repr(name), str(error))
            continue
        text = file_problem(file)
        yield AnnotationFile(file, name) if text is None else Problem(repr(name), text)


def reason(error: InputError, path: str | os.PathLike) -> str:
    """What is wrong with a file, without its name, which the record already says."""
    return str(error).removeprefix(f"{path}: ")


class ImageNames:
    """Finds images by names that were written on another machine.

    Args:
        images: file name -> record of the images in the image folder; none: names are taken as
            they are, without the folders of an absolute path.
    """

    def __init__(self, images: Mapping[str, dict]) -> None:
        self._images = images
        self._by_stem: dict[str, list[str]] = {}
        self._by_file: dict[str, list[str]] = {}
        for name in images:
            folder, slash, file = name.rpartition("/")
            stem = file.rpartition(".")[0] or file
            self._by_stem.setdefault(folder + slash + stem, []).append(name)
            self._by_file.setdefault(file, []).append(name)

    def has(self, name: str) -> bool:
        """Whether the image folder has an image of exactly this name."""
        return name in self._images

    def of_upload(self, name: str) -> str:
        """The image that a name without folders means: tools lose them when images are uploaded.

        That is the only image of the folder that is called so, in whatever folder; else `name`.
        """
        found = self._by_file.get(name, [])
        return found[0] if len(found) == 1 and name not in self._images else name

    def of_path(self, path: str, *, beside: str = "") -> str:
        """The image that a path means, which may be absolute or of Windows.

        That is the image whose name is the longest tail of the path. If there is none, the last
        part of the path, which is then no image of the folder.

        Args:
            path: as written.
            beside: the annotation file that a relative path starts from, itself relative to the
                folder of the annotations.
        """
        if path in self._images and not beside:
            return path
        is_relative = not path.startswith(("/", "\\")) and not PureWindowsPath(path).drive
        if is_relative and "/" in beside:
            path = posixpath.normpath(f"{beside.rpartition('/')[0]}/{path.replace(BACKSLASH, '/')}")
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        # What stands before a ".." is of no use, whatever it leads to.
        while ".." in parts:
            parts = parts[parts.index("..") + 1 :]
        for start in range(len(parts)):
            if "/".join(parts[start:]) in self._images:
                return "/".join(parts[start:])
        if not self._images and is_relative:
            return "/".join(parts) or path
        return parts[-1] if parts else path

    def of_file(self, name: str, *, also: tuple[str, ...] = ()) -> str | Problem:
        """The image whose annotations are in the file `name`: the image called the same.

        Args:
            name: the file, relative to the folder of the annotations, e.g. "train/a.txt". Leading
                folders are left away until an image fits; a folder of annotations (`labels`)
                stands for one of images.
            also: other stems, without folder and suffix, that the image may have.
        """
        path = PurePosixPath(name)
        for stem in (path.stem, *also):
            folders = path.parent.parts
            choices = [folders] + [
                tuple(other if part.lower() in ANNOTATION_FOLDERS else part for part in folders)
                for other in IMAGE_FOLDERS
            ]
            for start in range(len(folders) + 1):
                for choice in choices:
                    names = self._by_stem.get("/".join([*choice[start:], stem]), [])
                    if len(names) > 1:
                        return Problem(
                            repr(name),
                            f"fits two images, {names[0]!r} and {names[1]!r}. Rename one of them.",
                        )
                    if names:
                        return names[0]
        return Problem(
            repr(name),
            f"there is no image {path.stem!r} in the image folder. Add it, or correct the folder.",
        )
