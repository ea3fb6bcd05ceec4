"""Runs a recorded bag through a `PickPipeline`, as the node would have."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cpr_deploy.files import InputError
from cpr_deploy.ros.bags import BagCut, BagReader, BagWriter
from cpr_deploy.ros.messages import NANOSECONDS, stamp_of
from cpr_deploy.ros.pick_pipeline import (
    DIAGNOSTICS,
    DIAGNOSTICS_EVERY,
    INPUTS,
    OUTPUTS,
    PickFrame,
    PickPipeline,
)
from cpr_deploy.ros.typestore import from_cdr
from cpr_deploy.stream import EntryWriter


@dataclasses.dataclass
class BagSummary:
    """How many of what; refused: frames as a whole; found: targets; refusals: of frames and points
    by code; errors: why the bag could not be read to its end; interrupted: by Ctrl-C."""

    images: int = 0
    frames: int = 0
    refused: int = 0
    found: int = 0
    faults: int = 0
    refusals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    errors: list[str] = dataclasses.field(default_factory=list)
    interrupted: bool = False


def bag_topics(
    reader: BagReader, wanted: Mapping[str, str], *, need_tf: bool = True
) -> dict[str, tuple[str, str]]:
    """Name of `INPUTS` -> topic and its type, in an open bag. `wanted`: name -> topic.

    Raises:
        InputError: a topic is not in the bag, or of another type; the text lists those that fit.
    """
    found = {}
    for name, topic in wanted.items():
        kind = reader.topics.get(topic)
        if kind in INPUTS[name]:
            found[name] = (topic, kind)
        elif kind is not None or not name.startswith("tf"):
            fitting = sorted(t for t, k in reader.topics.items() if k in INPUTS[name])
            what = f"is {kind}" if kind else "is not in the bag"
            raise InputError(
                f"{reader.path}: topic {topic!r} for {name} {what}; of {' or '.join(INPUTS[name])}"
                f" are: {', '.join(fitting) or 'none'}. Give one of them."
            )
    double = sorted(topic for topic in wanted.values() if [*wanted.values()].count(topic) > 1)
    if double:
        raise InputError(f"topic {double[0]!r} is given twice. Image and depth have their own.")
    if need_tf and not found.keys() & {"tf", "tf_static"}:
        raise InputError(
            f"{reader.path}: has no transforms ({wanted['tf']}, {wanted['tf_static']}). Record them"
            " too, or give the camera's place in a file."
        )
    return found


def run_bag(
    reader: BagReader,
    topics: Mapping[str, tuple[str, str]],
    pipeline: PickPipeline,
    *,
    records: EntryWriter | None = None,
    bag: BagWriter | None = None,
    prefix: str = "/picking",
    with_input: bool = False,
    max_frames: int | None = None,
    clock: str = "recorded",
) -> BagSummary:
    """Gives every message to `pipeline` and writes what comes of it, in the order of time.

    records: get a line for each image, for each message that is damaged, and at the end. bag: gets
    the messages of `OUTPUTS` below `prefix`, diagnostics, and those of the input if `with_input`.

    clock: by which the age of frames is told: "recorded", when their messages were, or "stamp",
    where that was by a clock that has nothing to do with the camera's; then no frame is too old.

    A bag that breaks off is run up to there, and told by an error record; so it is after Ctrl-C.
    """
    run = _Run(reader, pipeline, records, bag, prefix, clock)
    if bag is not None:
        for name, kind in OUTPUTS.items():
            bag.add_topic(f"{prefix}/{name}", kind)
        bag.add_topic(*DIAGNOSTICS)
    names = {topic: name for name, (topic, _) in topics.items()}
    try:
        for message in reader.messages(dict(topics.values())):
            if with_input and bag is not None:
                bag.copy(message)
            run.message(names[message.topic], message)
            if max_frames is not None and run.summary.frames >= max_frames:
                break
        else:
            run.end()
    except BagCut as error:
        run.end()
        run.error(str(error))
    except KeyboardInterrupt:
        run.summary.interrupted = True
    run.tell_end()
    return run.summary


class _Run:
    def __init__(
        self,
        reader: BagReader,
        pipeline: PickPipeline,
        records: EntryWriter | None,
        bag: BagWriter | None,
        prefix: str,
        clock: str,
    ):
        self._source = str(reader.path)
        self._pipeline = pipeline
        self._records = records
        self._bag = bag
        self._prefix = prefix
        self._by_stamp = clock == "stamp"
        self._now = 0
        self._tell_after = 0
        self.summary = BagSummary()

    def message(self, name: str, message: Any) -> None:
        time = 0 if self._by_stamp else message.time
        try:
            content = from_cdr(message.data, message.type, message.topic)
            if self._by_stamp and not name.startswith("tf"):
                time = stamp_of(content)
        except InputError as error:
            self._fault(message.topic, str(error))
            return
        finally:
            # Recorders may write a little out of order; the clock does not go back.
            self._now = max(self._now, time)
        self._pipeline.add(name, content, self._now)
        for text in self._pipeline.faults():
            self._fault(message.topic, text)
        self._write_frames()
        if self._now >= self._tell_after:
            self._tell()

    def end(self) -> None:
        self._pipeline.add_all(self._now)
        self._write_frames()
        self._tell()

    def _tell(self) -> None:
        """Diagnostics, as often as the node does."""
        self._tell_after = self._now + int(DIAGNOSTICS_EVERY * NANOSECONDS)
        if self._bag is not None:
            name = self._prefix.strip("/")
            self._bag.write(DIAGNOSTICS[0], self._now, self._pipeline.diagnostics(self._now, name))

    def _write_frames(self) -> None:
        for frame in self._frames():
            self.summary.frames += 1
            self.summary.refused += not frame.result.live
            self.summary.found += len(frame.result.targets)
            self.summary.refusals.update(one.code.value for one in frame.result.refusals)
            self._record(frame.record())
            if self._bag is not None:
                for name, message in frame.messages().items():
                    self._bag.write(f"{self._prefix}/{name}", self._now, message)

    def _frames(self) -> Iterator[PickFrame]:
        while (frame := self._pipeline.take_frame(self._now)) is not None:
            yield frame

    def _fault(self, topic: str, text: str) -> None:
        self.summary.faults += 1
        self._record({"type": "fault", "topic": topic, "message": text})

    def error(self, text: str) -> None:
        self.summary.errors.append(text)
        self._record({"type": "error", "message": text})

    def tell_end(self) -> None:
        self.summary.images = self._pipeline.counts["images"]
        counts = {**vars(self.summary), "refusals": dict(self.summary.refusals.most_common())}
        interrupted = {"interrupted": True} if counts.pop("interrupted") else {}
        self._record({"type": "end", **counts, "errors": len(self.summary.errors), **interrupted})

    def _record(self, record: dict[str, Any]) -> None:
        if self._records is not None:
            at = round(self._now / NANOSECONDS, 6)
            self._records.write({"source": self._source, "at": at, **record})
