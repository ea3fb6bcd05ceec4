"""Telemetry tracks inside of video files, muxed by PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo.load import load_telemetry


def write(path, tracks, video="mpeg4"):
    """tracks: (codec or "klv", [(seconds, bytes)]) beside a second of black picture."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(video, rate=25)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        streams = [
            container.add_data_stream("klv") if kind == "klv" else container.add_mux_stream(kind)
            for kind, _ in tracks
        ]
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            frame.pts = index
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        for stream, (_, packets) in zip(streams, tracks, strict=True):
            for seconds, data in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = round(seconds * 1000)
                packet.duration = 100
                container.mux(packet)
    return path


CUES = [(t / 10, geo_parts.bracket_cue(54 + t / 1000, 12, 50).encode()) for t in range(5)]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mov_text"), ("a.mkv", "subrip")])
def test_subtitle_tracks(tmp_path, name, codec):
    packets = [
        (seconds, len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
        for seconds, text in CUES
    ]
    telemetry = load_telemetry(write(tmp_path / name, [(codec, packets)]))
    np.testing.assert_allclose(telemetry.time, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(telemetry.columns["latitude"], 54 + np.arange(5) / 1000)
    assert telemetry.clock == "video" and telemetry.gimbal_absolute


def test_klv_in_a_transport_stream(tmp_path):
    def packet(index):
        return geo_parts.klv_packet(
            [
                (2, struct.pack(">Q", 10**15 + index)),
                (13, struct.pack(">i", round(index / 90 * (2**31 - 1)))),
                (14, struct.pack(">i", 0)),
            ]
        )

    packets = [(index / 5, packet(index + 1)) for index in range(5)]
    packets[2] = (0.4, packets[2][1][:-1] + b"\0")  # a wrong checksum
    path = write(tmp_path / "a.ts", [("klv", packets)], "mpeg2video")
    telemetry = load_telemetry(path)
    np.testing.assert_allclose(telemetry.columns["latitude"], [1, 2, 4, 5], atol=1e-7)
    # On the video's clock, where the first frame of this file is.
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
    np.testing.assert_allclose(telemetry.time - telemetry.time[0], [0, 0.2, 0.6, 0.8], atol=1e-4)
    assert telemetry.time[0] == pytest.approx(float(first.pts * first.time_base), abs=0.05)
    assert telemetry.damaged == 1 and telemetry.clock == "video" and not telemetry.gimbal_absolute


def test_no_telemetry_inside(tmp_path):
    with pytest.raises(InputError, match="has no track with telemetry"):
        load_telemetry(write(tmp_path / "a.mp4", []))
    with pytest.raises(InputError, match="has no track with telemetry"):
        load_telemetry(write(tmp_path / "b.mkv", [("subrip", [(0, b"Good evening")])]))
    (tmp_path / "c.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        load_telemetry(tmp_path / "c.mp4")


def test_a_playlist_opens_nothing(tmp_path):
    """A file may be a list of addresses; none of them is opened."""
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    with pytest.raises(InputError, match="cannot be read|no track"):
        load_telemetry(tmp_path / "a.mp4")
