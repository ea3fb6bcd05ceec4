"""Videos to a data set to annotate: single frames, without those that show nearly the same."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import (
    InputError,
    check_output_folder,
    write_json,
)
from cpr_deploy.image_files import read_rgb, write_rgb

from ..point_json import Problem, save_points
from .folder import (
    FootageSettings,
    check_settings,
    complete_states,
    earlier_images,
    read_states,
    state_path,
    with_earlier_names,
)
from .near_duplicates import find_near_duplicates, hash_image
from .video_files import Video
from .video_frames import TakenFrame, VideoReader

logger = logging.getLogger(__name__)

# Longer side of the pictures of dropped frames, px.
SMALL_SIDE = 480


class Footage(NamedTuple):
    """dataset: a point JSON without annotations. dropped: the records of dropped.json. skipped:
    what was left out because it is damaged."""

    dataset: dict[str, Any]
    dropped: list[dict[str, Any]]
    skipped: list[Problem]


def extract_frames(
    videos: Sequence[Video],
    output: str | os.PathLike,
    settings: FootageSettings,
    *,
    classes: Sequence[str],
    workers: int | None = None,
    skip_bad: bool = False,
    on_frame: Callable[[], Any] = lambda: None,
) -> Footage:
    """Writes the chosen frames of videos as images, and the records of them as a point JSON.

    A second run with the same settings takes up what is complete; more videos may have been added
    to the first ones. Ids of images that are there already stay what they are.

    Args:
        videos: see `open_videos`.
        output: folder to write; see the top of this module.
        settings: how frames are chosen and written.
        classes: names of the classes that will be annotated, ids from 1.
        workers: videos that are read at a time; None: as many as there are CPUs.
        skip_bad: leave damaged frames and videos out, instead of stopping at the first.
        on_frame: called for each frame that was decoded, from several threads.

    Raises:
        InputError: the folder holds something else, or what other settings made; a video or a frame
            is damaged; there is no frame.
    """
    output = Path(output)
    check_output_folder(output)
    check_settings(output, settings)
    earlier, earlier_states = earlier_images(output), read_states(output)
    videos = with_earlier_names(videos, earlier_states)
    states = complete_states(output, videos, earlier_states)
    skipped: list[Problem] = []
    write_json(output / "frames.json", settings.as_json(), indent=1)
    todo = [video for video in videos if video.sequence not in states]
    if states:
        logger.info("%s: %d of %d videos are complete", output, len(states), len(videos))
    with contextlib.closing(_run(todo, output, settings, workers, skip_bad, on_frame)) as results:
        for video, result in results:
            if not isinstance(result, InputError):
                states[video.sequence] = result
            elif skip_bad:
                skipped.append(_problem(video, str(result)))
            else:
                raise result
    # In the order of the sources, whichever was ready first.
    states = {v.sequence: states[v.sequence] for v in videos if v.sequence in states}
    for video in videos:
        for text in states.get(video.sequence, {"problems": []})["problems"]:
            skipped.append(_problem(video, text))
    if settings.across:
        _drop_across(output, states, settings.threshold, {r["sequence"] for r in earlier})
    dropped = _dropped(states)
    dataset = _dataset(states, earlier, classes)
    dataset["footage"] = {
        **settings.as_json(),
        "videos": len(states),
        "frames": len(dataset["images"]),
        "dropped": len(dropped),
        "problems": sum(len(state["problems"]) for state in states.values()),
    }
    if not dataset["images"]:
        raise InputError(f"{output}: not one frame of {len(videos)} videos could be taken.")
    write_json(output / "dropped.json", dropped, indent=1)
    save_points(output / "images.json", dataset)
    return Footage(dataset, dropped, skipped)


def _problem(video: Video, text: str) -> Problem:
    return Problem(str(video.path), text.removeprefix(f"{video.path}: "))


def _run(
    videos: Sequence[Video],
    output: Path,
    settings: FootageSettings,
    workers: int | None,
    skip_bad: bool,
    on_frame: Callable[[], Any],
) -> Iterator[tuple[Video, dict | InputError]]:
    """State of each video, or what is wrong with it, as they are done."""
    if not videos:
        return
    cpus = available_cpus()
    workers = max(1, min(workers or cpus, len(videos)))
    stop = threading.Event()

    def checked() -> None:
        on_frame()
        if stop.is_set():
            raise _Stopped

    def read(video: Video) -> dict | InputError:
        try:
            # What CPUs the videos leave over go to the decoders.
            return _read(video, output, settings, -(-cpus // workers), skip_bad, checked)
        except InputError as error:
            return error

    # Threads are enough: FFmpeg and Pillow let others run while they work.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="video")
    try:
        jobs = {pool.submit(read, video): video for video in videos}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Another video stopped the run."""


def _read(
    video: Video,
    output: Path,
    settings: FootageSettings,
    threads: int,
    skip_bad: bool,
    on_frame: Callable[[], Any],
) -> dict[str, Any]:
    """Writes the frames of one video and then its state."""
    frames: list[dict] = []
    dropped: list[dict] = []
    with VideoReader(video.path, threads=threads) as reader:

        def check() -> None:
            if reader.problems and not skip_bad:
                raise InputError(
                    f"{video.path}: {reader.problems[0]} Copy or record it again, or leave out what"
                    " is damaged (--skip-bad)."
                )

        def checked() -> None:
            on_frame()
            check()

        for frame in reader.read(settings.selection, on_frame=checked):
            record = _record(video, frame, settings.image_format)
            if settings.threshold is not None:
                record["hash"] = f"{hash_image(frame.image):016x}"
                if frames and _bits(frames[-1], record) <= settings.threshold:
                    dropped.append(_drop(output, record, frames[-1], frame.image))
                    continue
            path = output / "images" / record["file_name"]
            write_rgb(path, frame.image, jpeg_quality=settings.quality)
            frames.append(record)
        check()
        if not frames:
            raise InputError(f"{video.path}: has no whole frame in the wanted time.")
        state = {
            "video": video.path.name,
            "fingerprint": video.fingerprint,
            "frames": frames,
            "dropped": dropped,
            "problems": reader.problems,
        }
    write_json(state_path(output, video.sequence), state, indent=1)
    return state


def _record(video: Video, frame: TakenFrame, suffix: str) -> dict[str, Any]:
    """The image record, without an id yet."""
    height, width = frame.image.shape[:2]
    milliseconds = round(1000 * frame.seconds)
    name = f"{video.sequence}_{frame.index:06d}_{milliseconds:08d}ms.{suffix}"
    return {
        "file_name": f"{video.sequence}/{name}",
        "width": width,
        "height": height,
        "sequence": video.sequence,
        "frame": frame.index,
        "seconds": round(frame.seconds, 6),
        "video": video.path.name,
    }


def _bits(first: dict, second: dict) -> int:
    """How far the hashes of two records are apart."""
    return (int(first["hash"], 16) ^ int(second["hash"], 16)).bit_count()


def _drop(output: Path, record: dict, of: dict, image: np.ndarray) -> dict[str, Any]:
    """The record of a frame that is dropped because of another; writes its small picture."""
    from PIL import Image

    name = str(Path(record["file_name"]).with_suffix(".jpg").as_posix())
    factor = min(1.0, SMALL_SIDE / max(image.shape[:2]))
    size = tuple(max(1, round(factor * side)) for side in image.shape[1::-1])
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    write_rgb(output / "dropped" / name, small, jpeg_quality=85)
    return {
        **record,
        "duplicate_of": of["file_name"],
        "distance": _bits(of, record),
        "picture": f"dropped/{name}",
    }


def _drop_across(output: Path, states: dict[str, dict], threshold: int, settled: set[str]) -> None:
    """Drops frames that come near a kept one of another video; `settled` ones first."""
    order = sorted(states, key=lambda sequence: sequence not in settled)
    frames = [frame for sequence in order for frame in states[sequence]["frames"]]
    hashes = np.array([int(frame["hash"], 16) for frame in frames], dtype=np.uint64)
    sequences = [frame["sequence"] for frame in frames]
    of, _ = find_near_duplicates(hashes, sequences, threshold, across=True)
    for sequence in order:
        state = states[sequence]
        gone = [
            (frame, frames[of[place]])
            for place, frame in enumerate(frames)
            if frame["sequence"] == sequence and of[place] != place
        ]
        if not gone:
            continue
        names = {frame["file_name"] for frame, _ in gone}
        for frame, kept in gone:
            image = read_rgb(output / "images" / frame["file_name"])
            state["dropped"].append(_drop(output, frame, kept, image))
        state["dropped"].sort(key=lambda record: record["frame"])
        state["frames"] = [f for f in state["frames"] if f["file_name"] not in names]
        # First the record, then the files: a run that stops in between removes them next time.
        write_json(state_path(output, sequence), state, indent=1)
        for name in names:
            (output / "images" / name).unlink()


def _dropped(states: dict[str, dict]) -> list[dict[str, Any]]:
    """All dropped frames, each beside a frame that was kept."""
    records = [record for state in states.values() for record in state["dropped"]]
    by_name = {record["file_name"]: record for record in records}
    kept = {frame["file_name"]: frame for state in states.values() for frame in state["frames"]}
    result = []
    for record in records:
        of = record["duplicate_of"]
        while of in by_name:  # dropped later itself, for a frame of another video
            of = by_name[of]["duplicate_of"]
        result.append({**record, "duplicate_of": of, "distance": _bits(kept[of], record)})
    return result


def _dataset(
    states: dict[str, dict], earlier: Iterable[dict], classes: Sequence[str]
) -> dict[str, Any]:
    ids = {record["file_name"]: record["id"] for record in earlier}
    following = max(ids.values(), default=0) + 1
    images = []
    for state in states.values():
        for frame in state["frames"]:
            if frame["file_name"] not in ids:
                ids[frame["file_name"]] = following
                following += 1
            record = {key: value for key, value in frame.items() if key != "hash"}
            images.append({"id": ids[frame["file_name"]], **record})
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]
    return {"images": images, "annotations": [], "categories": categories}
