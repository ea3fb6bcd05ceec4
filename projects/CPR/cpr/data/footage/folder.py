"""The folder that `frames` writes: its settings, and what of it is complete.

What `extract_frames` writes into it:

    images.json                 point JSON of the frames, without annotations
    images/SEQUENCE/*.jpg       the frames; a video is a sequence
    dropped.json                the frames that were dropped as near-duplicates, and of which
    dropped/SEQUENCE/*.jpg      these frames, small
    frames.json                 with which settings all this was made
    videos/SEQUENCE.json        what was taken from a video, written when it is complete
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, name_problem, read_json

from .near_duplicates import THRESHOLD, check_threshold
from .video_files import Video
from .video_frames import Selection

logger = logging.getLogger(__name__)

FORMATS = ("jpg", "png")
JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class FootageSettings:
    """How frames are chosen and written.

    selection: which frames of a video. image_format: "jpg" or "png". quality: of JPEG, 1 to 100.
    threshold: frames at most so many bits from the last one that was kept of their video are
    dropped (see near_duplicates); None keeps all. across: also those as close to a kept frame of
    another video.
    """

    selection: Selection = Selection()
    image_format: str = "jpg"
    quality: int = JPEG_QUALITY
    threshold: int | None = THRESHOLD
    across: bool = False

    def __post_init__(self) -> None:
        if self.image_format not in FORMATS:
            raise InputError(f"format {self.image_format!r}: use one of {', '.join(FORMATS)}.")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality {self.quality}: give a number from 1 to 100.")
        if self.threshold is not None:
            check_threshold(self.threshold)
        elif self.across:
            raise InputError("across sequences: needs near-duplicates to be dropped.")

    def as_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values.pop("selection"), **values}


def check_settings(output: Path, settings: FootageSettings) -> None:
    """InputError if something else than these settings made what is in the folder."""
    path = output / "frames.json"
    if not path.exists():
        ours = ("images.json", "images", "dropped.json", "dropped", "videos")
        there = [name for name in ours if (output / name).exists()]
        if there:
            raise InputError(
                f"{output}: holds {there[0]} but no frames.json, so it was not written by this"
                " command. Give an empty folder or a new one."
            )
        return
    found, wanted = read_json(path), settings.as_json()
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no record of settings. Give another output folder.")
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    if keys:
        was, now = (
            ", ".join(f"{key} {values.get(key)}" for key in keys) for values in (found, wanted)
        )
        raise InputError(
            f"{output}: was written with other settings ({was}; now {now}). Give the same ones to"
            " go on, or another output folder, or remove this one."
        )


def state_path(output: Path, sequence: str) -> Path:
    return output / "videos" / f"{sequence}.json"


def read_states(output: Path) -> dict[str, dict]:
    """What an earlier run recorded of its videos, by sequence; InputError if it is damaged."""
    states: dict[str, dict] = {}
    for path in sorted((output / "videos").glob("*.json")):
        state = read_json(path)
        try:
            for record in (*state["frames"], *state["dropped"]):
                # Files of these names are removed.
                if name_problem(record["file_name"]):
                    raise ValueError
            list(state["problems"])
        except (TypeError, KeyError, ValueError, AttributeError):
            text = f"{path}: is damaged. Remove it to read that video again."
            raise InputError(text) from None
        states[path.stem] = state
    return states


def with_earlier_names(videos: Sequence[Video], earlier: Mapping[str, dict]) -> list[Video]:
    """Videos with the sequences that they had in an earlier run.

    A video that was added may be called as an earlier one is, in another folder; both would then
    get the name of their folder too.

    Raises:
        InputError: another video would get the name of an earlier one.
    """
    names = {state.get("fingerprint"): sequence for sequence, state in earlier.items()}
    named = [v._replace(sequence=names.get(v.fingerprint, v.sequence)) for v in videos]
    taken: dict[str, Video] = {}
    for video in named:
        other = taken.setdefault(video.sequence.casefold(), video)
        if other is not video:
            raise InputError(
                f"{video.path}: gets the name {video.sequence!r}, as {other.path} has in the output"
                " folder. Rename the video that is new."
            )
    return named


def complete_states(
    output: Path, videos: Sequence[Video], earlier: Mapping[str, dict]
) -> dict[str, dict]:
    """What of an earlier run is complete, by sequence; InputError if it is of other videos."""
    by_name = {video.sequence: video for video in videos}
    states: dict[str, dict] = {}
    for sequence, state in earlier.items():
        path, video = state_path(output, sequence), by_name.get(sequence)
        if video is None:
            raise InputError(
                f"{output}: holds frames of {state.get('video')!r}, which is not among the videos."
                " Give it too, or another output folder."
            )
        if state.get("fingerprint") != video.fingerprint:
            raise InputError(
                f"{video.path}: is not the video that {output / 'images' / sequence} was made of."
                f" Give another output folder, or remove that folder and {path}."
            )
        # A picture may have been removed, or a run stopped while it dropped some.
        for record in state["dropped"]:
            (output / "images" / record["file_name"]).unlink(missing_ok=True)
        if all((output / "images" / r["file_name"]).is_file() for r in state["frames"]):
            states[sequence] = state
        else:
            logger.warning("%s: images of it are missing, it is read again", sequence)
    return states


def earlier_images(output: Path) -> list[dict]:
    """The image records of an earlier run that came to its end."""
    path = output / "images.json"
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("images"), list):
        raise InputError(f"{path}: is no point JSON. Give another output folder, or remove it.")
    if found.get("annotations"):
        raise InputError(
            f"{path}: holds annotations, which would be lost. Give it another name, or another"
            " output folder."
        )
    return found["images"]
