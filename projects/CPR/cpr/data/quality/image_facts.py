"""What a pass over image files finds: sizes, what cannot be read, hashes."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import InputError, explain, safe_child
from cpr_deploy.image_files import unreadable

from ..file_notes import FileNotes, open_notes

# Larger images are refused by Pillow as decompression bombs too; DOTA's largest have 100 MP.
MAX_IMAGE_PIXELS = 178_956_970


class ImageFacts(NamedTuple):
    """What is known of an image file.

    Attributes:
        width, height: px, turned as its EXIF tag says; 0 if it cannot be read.
        problem: why it cannot be read, and what to do.
        digest: SHA-256 of the file, if hashes were wanted.
        near_hash: see `cpr.data.footage.near_duplicates.hash_image`, if hashes were wanted.
    """

    width: int = 0
    height: int = 0
    problem: str | None = None
    digest: bytes | None = None
    near_hash: int | None = None


def inspect_images(
    image_root: str | os.PathLike,
    names: Iterable[str],
    *,
    hashes: bool = False,
    resume: bool = False,
    workers: int | None = None,
    progress: Callable[..., Iterable] = lambda iterable, total: iterable,
) -> dict[str, ImageFacts]:
    """Decodes every pixel of image files, each one once.

    Args:
        image_root: their folder.
        names: relative to it; a name may be there several times.
        hashes: take both hashes too.
        resume: do not read again what an earlier pass has found good, see `cpr.data.file_notes`.
        workers: threads; None: one a CPU.
        progress: wraps the iterable of files, for example tqdm; called with `total`.

    Returns:
        name -> facts, also of files that are missing or lead out of the folder.
    """
    from PIL import Image

    Image.init()  # not by several threads at once
    names = list(dict.fromkeys(names))
    facts = {}
    # Threads are enough: Pillow lets others run while it decodes, hashlib while it sums up.
    pool = ThreadPoolExecutor(workers or available_cpus())
    with open_notes(image_root, resume) as notes, pool:
        try:
            found = pool.map(lambda name: _inspect(image_root, name, hashes, notes), names)
            for name, fact in zip(names, progress(found, total=len(names)), strict=True):
                facts[name] = fact
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return facts


def _inspect(
    image_root: str | os.PathLike, name: str, hashes: bool, notes: FileNotes
) -> ImageFacts:
    try:
        path = safe_child(image_root, name)
        if not path.is_file():
            raise InputError(
                f"{path}: no such image. Check the image folder {os.fspath(image_root)!r} or remove"
                " the record."
            )
    except (InputError, OSError) as error:  # OSError: for example a name that is too long
        return ImageFacts(problem=explain(error) or str(error))
    kind = "pixels and hashes" if hashes else "pixels"
    try:
        noted = notes.get(path, kind)
        if noted is not None:
            width, height, digest, near_hash = noted
            return ImageFacts(width, height, None, digest and bytes.fromhex(digest), near_hash)
        facts = _decoded(path, hashes)
        digest = facts.digest and facts.digest.hex()
        notes.put(path, kind, [facts.width, facts.height, digest, facts.near_hash])
        return facts
    except InputError as error:
        return ImageFacts(problem=str(error))
    except Exception as error:  # Pillow raises many types for damaged files
        text = f"{path}: {unreadable(error)} Copy it again or remove the record."
        return ImageFacts(problem=text)


def _decoded(path: Path, hashes: bool) -> ImageFacts:
    import numpy as np
    from PIL import Image, ImageOps

    from ..footage.near_duplicates import hash_image

    data = path.read_bytes() if hashes else b""
    with Image.open(io.BytesIO(data) if hashes else path) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise InputError(f"{path}: {image.width} x {image.height} px is too large. Tile it.")
        image.load()
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        size = (image.height, image.width) if turned else image.size
        if not hashes:
            return ImageFacts(*size)
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return ImageFacts(*size, None, hashlib.sha256(data).digest(), hash_image(rgb))
