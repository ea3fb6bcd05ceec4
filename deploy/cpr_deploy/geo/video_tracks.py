"""Telemetry inside of a video file: DJI's subtitle track, or KLV in a transport stream (PyAV)."""

from __future__ import annotations

from pathlib import Path

from cpr_deploy.files import InputError

from . import dji_srt, klv
from .telemetry import Telemetry, from_rows


def read_video(path: Path) -> Telemetry:
    """The first track of `path` that holds telemetry; its clock is the video's.

    Raises:
        InputError: no video file, or none of its tracks is known.
    """
    import av

    cues: dict[int, list[tuple[float, str]]] = {}
    bodies: dict[int, list[tuple[float, bytes]]] = {}
    try:
        # Of files no other protocol may be opened.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            tracks = [s for s in container.streams if s.type in ("subtitle", "data")]
            for packet in container.demux(tracks) if tracks else ():
                if packet.pts is None or not packet.size:
                    continue
                seconds = float(packet.pts * packet.time_base)
                if packet.stream.type == "subtitle":
                    text = _subtitle(bytes(packet), packet.stream.codec_context.name)
                    cues.setdefault(packet.stream.index, []).append((seconds, text))
                else:
                    bodies.setdefault(packet.stream.index, []).append((seconds, bytes(packet)))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a video file ({error}).") from None
    for track in cues.values():
        if any(dji_srt.parse_cue(text) for _, text in track):
            return dji_srt.from_cues(track, str(path))
    for track in bodies.values():
        found = [
            (seconds, klv.parse_packet(packet))
            for seconds, body in track
            for packet in klv.packets(body)
        ]
        rows = [{**row, "time": seconds} for seconds, row in found if row is not None]
        if rows:
            damaged = len(found) - len(rows)
            return from_rows(str(path), "video", rows, gimbal_absolute=False, damaged=damaged)
    raise InputError(
        f"{path}: has no track with telemetry that is known here (DJI subtitles, KLV of MISB ST"
        " 0601). DJI writes them only with 'Video Subtitles' switched on; give the .SRT file beside"
        " the video, or a CSV."
    )


def _subtitle(data: bytes, codec: str) -> str:
    if codec == "mov_text":  # a length in two bytes, the text, perhaps style boxes
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    return data.decode("utf-8", errors="replace")
