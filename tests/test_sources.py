import io

import cv2
import numpy as np
import pytest

import stream_parts
from cpr_deploy.files import InputError
from cpr_deploy.sources import (
    RAW_FORMATS,
    Frame,
    RawSource,
    SourceError,
    SourceSpec,
    camera_number,
    open_source,
    spec_from_json,
)


def raw(data, size, kind="bgr24", **options):
    spec = SourceSpec("-", raw_size=size, raw_format=kind, **options)
    return list(RawSource(io.BytesIO(data), spec))


def test_raw_frames_with_times_of_their_rate():
    images = stream_parts.pictures(3)
    frames = raw(b"".join(image.tobytes() for image in images), (128, 96), fps=4.0)
    assert [frame.pts for frame in frames] == [0.0, 0.25, 0.5]
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, image)


CONVERSIONS = {
    "rgb24": "COLOR_BGR2RGB",
    "bgra": "COLOR_BGR2BGRA",
    "rgba": "COLOR_BGR2RGBA",
    "gray": "COLOR_BGR2GRAY",
    "yuv420p": "COLOR_BGR2YUV_I420",
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_raw_formats(kind):
    image = np.full((8, 12, 3), (200, 120, 40), np.uint8)
    data = cv2.cvtColor(image, getattr(cv2, CONVERSIONS[kind])).tobytes()
    (frame,) = raw(data, (12, 8), kind)
    assert frame.image.shape == image.shape
    if kind == "gray":
        assert np.ptp(frame.image) == 0
    else:
        assert np.abs(frame.image.astype(int) - image).max() <= 3


def test_nv12_differs_from_yuv420p_in_the_order_of_its_planes():
    planar = np.full((12, 12), 128, np.uint8)
    planar[8:10], planar[10:] = 90, 200  # u, then v
    (first,) = raw(planar.tobytes(), (12, 8), "yuv420p")
    planar[8:] = np.tile([90, 200], (4, 6))
    (second,) = raw(planar.tobytes(), (12, 8), "nv12")
    np.testing.assert_array_equal(first.image, second.image)


def test_raw_frames_cut_off():
    *frames, error = raw(bytes(12 * 8 * 3 * 2 + 5), (12, 8))
    assert len(frames) == 2 and isinstance(error, SourceError)
    assert "ends in the middle of a frame" in error.message


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (None, "bgr24", "--raw-size 640x480"),
        ((0, 5), "bgr24", "--raw-size 640x480"),
        ((99999, 99999), "bgr24", "at most"),
        ((5, 4), "nv12", "even sides"),
        ((4, 4), "h264", ", ".join(RAW_FORMATS)),
    ],
)
def test_raw_frames_of_no_use(size, kind, message):
    with pytest.raises(InputError, match=message):
        raw(b"", size, kind)


def test_every_nth_is_the_same_frame_of_file_folder_and_pipe(tmp_path):
    images = stream_parts.pictures(7)
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "folder" / f"{index}.png"), image)
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", images)
    sources = [
        open_source(SourceSpec(str(tmp_path / "folder"), every=3)),
        open_source(SourceSpec(str(clip), every=3)),
        RawSource(
            io.BytesIO(np.array(images).tobytes()), SourceSpec("-", every=3, raw_size=(128, 96))
        ),
    ]
    for source in sources:
        assert [frame.index for frame in source] == [0, 3, 6] and source.skipped == 4
        source.close()


def test_cameras_by_number_and_device_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert camera_number("0") == 0 and camera_number("/dev/video12") == 12
    assert camera_number("clip.mp4") is None and camera_number("-1") is None
    (tmp_path / "0").write_bytes(b"")
    assert camera_number("0") is None


def test_a_spec_goes_through_json():
    import dataclasses
    import json

    spec = SourceSpec("-", fps=7.0, every=2, raw_size=(4, 6), raw_format="gray")
    assert spec_from_json(json.loads(json.dumps(dataclasses.asdict(spec)))) == spec
    assert SourceSpec("rtsp://u:p@cam/x").name == "rtsp://cam/x"


def test_addresses_of_unknown_kinds():
    with pytest.raises(InputError, match="ftp://cam/x: unknown kind of address.*rtsp://"):
        open_source("ftp://u:p@cam/x")


def test_a_file_may_open_no_address_and_an_address_no_file(tmp_path):
    """A playlist in disguise; whether it is known as one or not, nothing else is opened."""
    clip = stream_parts.write_clip(tmp_path / "clip.ts", stream_parts.pictures(2))
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile 'http://127.0.0.1:9/{clip.name}'\n")
    with pytest.raises(InputError, match="cannot be opened as video"):
        open_source(str(playlist))
    assert isinstance(next(iter(open_source(str(clip)))), Frame)
