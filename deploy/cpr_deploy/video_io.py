"""Video containers and folders of images: opening them safely, upright pixels, times of frames.

Pixels are (height, width, 3) uint8. `sources` makes streams of frames of them, `video_writer`
writes video.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import av
import numpy as np

from cpr_deploy.addresses import PROTOCOLS, redacted, scheme
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_bgr

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Larger frames are refused: most likely a damaged header.
MAX_PIXELS = 200_000_000
# Seconds without data after which opening or reading a network stream fails.
STREAM_TIMEOUT = (10.0, 20.0)
# Little is read before the first frame. Not "nobuffer": that would lose what was read.
_LIVE_OPTIONS = {"analyzeduration": "1000000", "fpsprobesize": "0"}


def open_container(
    path: str, *, live: bool = False
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """A video file or network stream and its first video stream, which can be decoded.

    Raises:
        InputError: it cannot be opened, holds no video, or frames of an absurd size.
    """
    name = redacted(path)
    protocol = scheme(path) if live else ""
    # A file may be a playlist in disguise: it must not make us open addresses; a stream must not
    # make us open files.
    options = {"protocol_whitelist": PROTOCOLS[protocol] if protocol else "file"}
    if live:
        options |= _LIVE_OPTIONS
    if protocol.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    if protocol.startswith("http"):
        options["max_redirects"] = "0"  # it could lead to addresses inside of our network
    try:
        container = av.open(
            path,
            options=options,
            timeout=STREAM_TIMEOUT if live else None,
            metadata_errors="replace",  # titles in any encoding, or damaged, do not matter
        )
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(
            f"{name}: cannot be opened as video ({error_reason(error)}). "
            + (
                "Check the address and the network."
                if live
                else "If the file was cut off while it was written, copy or record it again."
            )
        ) from None
    if not container.streams.video:
        container.close()
        raise InputError(
            f"{name}: holds no video stream. The file may have been cut off: copy or"
            " record it again, or give another."
        )
    stream = container.streams.video[0]
    # Decoding frames side by side is fastest, but hands each one out some frames late.
    stream.thread_type = "SLICE" if live else "AUTO"
    context = stream.codec_context
    if context is None or not context.width:
        container.close()
        raise InputError(
            f"{name}: its video stream cannot be decoded. The file may have been cut off;"
            " copy or record it again."
        )
    if context.width * context.height > MAX_PIXELS:
        container.close()
        raise InputError(f"{name}: frames of {context.width}x{context.height} px.")
    return container, stream


def upright(frame: av.VideoFrame, pixel_format: str) -> np.ndarray:
    """The pixels of a decoded frame, (H, W, 3) uint8 of format "bgr24" or "rgb24", turned as the
    file says: phones store the picture as the sensor saw it, with the turn beside it."""
    image = frame.to_ndarray(format=pixel_format)
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def seconds_of(frame: av.VideoFrame) -> float | None:
    """The time of a decoded frame in its file."""
    return None if frame.pts is None else float(frame.pts * frame.time_base)


def error_reason(error: Exception) -> str:
    """What FFmpeg or the operating system says."""
    return str(getattr(error, "strerror", None) or error).strip()


def _natural_key(path: Path) -> list:
    """Sorts frame2 before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name.lower())]


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Image files of a folder in natural order; InputError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Check the path.")
    paths = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES),
        key=_natural_key,
    )
    if not paths:
        raise InputError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return paths


def read_image_folder(folder: str | os.PathLike, *, limit: int) -> list[np.ndarray]:
    """The first `limit` images of a folder."""
    return [read_bgr(path) for path in list_images(folder)[:limit]]
