"""Footage to frames: the right ones, with their times, upright, once, whatever stops in between."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpr.data.footage.extract import extract_frames
from cpr.data.footage.folder import FootageSettings
from cpr.data.footage.video_files import find_videos, open_videos
from cpr.data.footage.video_frames import Selection, VideoReader
from cpr.data.point_json import load_points
from cpr_deploy.files import InputError
from footage_clips import HEIGHT, WIDTH, picture, turn, write_clip
from tool_runner import run_tool

# Times of frames of a camera with a variable frame rate, s.
TIMES = (0.0, 0.1, 0.2, 0.3, 0.9, 1.0, 1.1, 2.5, 2.6, 4.0)


def read(path, selection, **options):
    with VideoReader(path) as reader:
        return list(reader.read(selection, **options)), reader


def extract(videos, output, settings=None, **options):
    videos, _ = open_videos(videos, skip_bad=options.get("skip_bad", False))
    settings = settings or FootageSettings(Selection(every=1))
    return extract_frames(videos, output, settings, classes=["person"], **options)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def nearest(image, seeds):
    """Which of the made pictures an image is."""
    return min(seeds, key=lambda seed: np.abs(image.astype(int) - picture(seed)).mean())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("every", [1, 3, 7, 50])
def test_each_so_many_frames(tmp_path, name, every):
    seeds = range(12)
    path = write_clip(tmp_path / name, seeds)
    frames, reader = read(path, Selection(every=every))
    assert [frame.index for frame in frames] == list(seeds)[::every]
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(12)[::every] / 10, atol=2e-3)
    assert [nearest(frame.image, seeds) for frame in frames] == list(seeds)[::every]
    assert reader.problems == [] and reader.frames == 12


def test_times_are_those_of_the_file(tmp_path):
    """Also if they are irregular, and do not begin at 0."""
    for start in (0.0, 7.0):
        path = write_clip(tmp_path / f"{start}.mkv", range(10), times=TIMES, start=start)
        frames, _ = read(path, Selection(every=1))
        np.testing.assert_allclose([frame.seconds for frame in frames], TIMES, atol=2e-3)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(every_seconds=1.0), [0, 5, 7, 9]),
        (Selection(every_seconds=0.1), range(10)),
        (Selection(every_seconds=9.0), [0]),
        (Selection(every_seconds=1.0, start=0.15), [2, 7, 9]),
        (Selection(every=2, start=0.15), [2, 4, 6, 8]),
        (Selection(every=1, start=0.9, end=2.5), [4, 5, 6]),
        (Selection(), [0]),
    ],
)
def test_selections_go_by_time(tmp_path, selection, expected):
    path = write_clip(tmp_path / "clip.mp4", range(10), times=TIMES)
    frames, _ = read(path, selection)
    assert [frame.index for frame in frames] == list(expected)


def test_scene_changes(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [1, 1, 1, 2, 2, 3, 3, 3, 3, 1])
    frames, _ = read(path, Selection(scene_change=0.05))
    assert [frame.index for frame in frames] == [0, 3, 5, 9]


def test_the_turn_of_a_telephone(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", [5])
    turn(path)
    (frame,), _ = read(path, Selection())
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    # Clockwise: the left side of what was stored is up.
    assert np.abs(frame.image.astype(int) - np.rot90(picture(5), -1)).mean() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every 0: give a number of frames"),
        ({"every_seconds": 0.0}, "time above 0 s"),
        ({"every_seconds": float("nan")}, "time above 0 s"),
        ({"scene_change": 1.0}, "above 0, below 1"),
        ({"every": 2, "every_seconds": 1.0}, "give one of them"),
        ({"start": 3.0, "end": 2.0}, "is no time"),
        ({"start": -1.0}, "is no time"),
    ],
)
def test_bad_selections(arguments, message):
    with pytest.raises(InputError, match=message):
        Selection(**arguments)


def test_the_records_and_their_files(tmp_path):
    write_clip(tmp_path / "in" / "Flight 1.mp4", range(4))
    write_clip(tmp_path / "in" / "deep" / "b.avi", range(20, 23))
    (tmp_path / "in" / "notes.txt").write_text("no video")
    footage = extract(find_videos([tmp_path / "in"]), tmp_path / "out")
    images = footage.dataset["images"]
    assert [image["id"] for image in images] == list(range(1, 8))
    assert images[1] == {
        "id": 2,
        "file_name": "Flight_1/Flight_1_000001_00000100ms.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "sequence": "Flight_1",
        "frame": 1,
        "seconds": 0.1,
        "video": "Flight 1.mp4",
    }
    assert images[4]["file_name"] == "b/b_000000_00000000ms.jpg"
    for image, seed in zip(images, [0, 1, 2, 3, 20, 21, 22], strict=True):
        with Image.open(tmp_path / "out" / "images" / image["file_name"]) as file:
            assert file.size == (WIDTH, HEIGHT)
            assert nearest(np.asarray(file), range(30)) == seed
    saved = load_points(tmp_path / "out" / "images.json", may_be_empty=True)
    assert saved == footage.dataset
    assert saved["annotations"] == [] and saved["categories"] == [{"id": 1, "name": "person"}]


def test_png_is_exact(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [3])
    settings = FootageSettings(Selection(every=1), image_format="png")
    (record,) = extract([path], tmp_path / "out", settings).dataset["images"]
    (frame,), _ = read(path, Selection(every=1))
    saved = np.asarray(Image.open(tmp_path / "out" / "images" / record["file_name"]))
    np.testing.assert_array_equal(saved, frame.image)


def test_near_duplicates_are_dropped_and_recorded(tmp_path):
    """Each frame is compared with the last one that was kept of its video."""
    first = write_clip(tmp_path / "a.mp4", [1, 1, 2, 2, 1])
    second = write_clip(tmp_path / "b.mp4", [1, 3])
    footage = extract([first, second], tmp_path / "out")
    assert [(i["sequence"], i["frame"]) for i in footage.dataset["images"]] == [
        ("a", 0),
        ("a", 2),
        ("a", 4),
        ("b", 0),
        ("b", 1),
    ]
    dropped = json.loads((tmp_path / "out" / "dropped.json").read_text())
    assert [(d["frame"], d["duplicate_of"]) for d in dropped] == [
        (1, "a/a_000000_00000000ms.jpg"),
        (3, "a/a_000002_00000200ms.jpg"),
    ]
    for record in dropped:
        assert record["distance"] <= 4
        assert (tmp_path / "out" / record["picture"]).is_file()
        assert not (tmp_path / "out" / "images" / record["file_name"]).exists()
    everything = FootageSettings(Selection(every=1), threshold=None)
    kept = extract([first, second], tmp_path / "all", everything)
    assert len(kept.dataset["images"]) == 7 and kept.dropped == []


def test_near_duplicates_of_other_videos(tmp_path):
    first = write_clip(tmp_path / "a.mp4", [1, 2, 1])
    second = write_clip(tmp_path / "b.mp4", [2, 2, 3])
    settings = FootageSettings(Selection(every=1), across=True)
    footage = extract([first, second], tmp_path / "out", settings)
    names = [image["file_name"] for image in footage.dataset["images"]]
    # The third frame of `a` is like its first, but not like the last one before it.
    assert [(i["sequence"], i["frame"]) for i in footage.dataset["images"]] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 2),
    ]
    assert sorted(files_below(tmp_path / "out" / "images")) == sorted(names)
    assert [(d["sequence"], d["frame"], d["duplicate_of"]) for d in footage.dropped] == [
        ("b", 0, names[1]),
        ("b", 1, names[1]),
    ]


def test_a_second_run_changes_nothing_and_reads_nothing(tmp_path):
    paths = [write_clip(tmp_path / f"{name}.mp4", [1, 1, 2]) for name in "ab"]
    write_clip(paths[1], [1, 3])
    settings = FootageSettings(Selection(every=1), across=True)
    first = extract(paths, tmp_path / "out", settings)
    before = files_below(tmp_path / "out")
    decoded = []
    again = extract(paths, tmp_path / "out", settings, on_frame=lambda: decoded.append(1))
    assert again == first and files_below(tmp_path / "out") == before and not decoded


@pytest.mark.parametrize("stop", range(1, 12, 2))
def test_a_run_that_was_stopped_is_taken_up(tmp_path, stop):
    """Whatever it was stopped at, the end is that of a run that was not."""
    paths = [write_clip(tmp_path / f"{n}.mp4", s) for n, s in (("a", [1, 2, 3, 3]), ("b", [2, 4]))]
    paths.append(write_clip(tmp_path / "c.mp4", [5, 6, 1, 7, 7]))
    settings = FootageSettings(Selection(every=1), across=True)
    whole = extract(paths, tmp_path / "whole", settings)
    decoded = []

    def interrupt():
        decoded.append(1)
        if len(decoded) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(paths, tmp_path / "out", settings, on_frame=interrupt, workers=1)
    assert not (tmp_path / "out" / "images.json").exists()
    assert extract(paths, tmp_path / "out", settings, workers=2) == whole
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_a_run_that_was_stopped_while_it_dropped(tmp_path, monkeypatch):
    paths = [write_clip(tmp_path / f"{n}.mp4", s) for n, s in (("a", [1, 2]), ("b", [2, 3]))]
    settings = FootageSettings(Selection(every=1), across=True)
    whole = extract(paths, tmp_path / "whole", settings)

    def interrupt(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupt)
        extract(paths, tmp_path / "out", settings)
    assert extract(paths, tmp_path / "out", settings) == whole
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_added_videos_leave_ids_as_they_are(tmp_path):
    second = write_clip(tmp_path / "b.mp4", [1, 2])
    before = extract([second], tmp_path / "out").dataset["images"]
    first = write_clip(tmp_path / "a.mp4", [3])
    after = extract([first, second], tmp_path / "out").dataset["images"]
    assert after[1:] == before
    assert (after[0]["id"], after[0]["sequence"]) == (3, "a")


def test_an_added_video_may_be_called_as_an_earlier_one(tmp_path):
    """Cameras number their files anew on each card."""
    first = write_clip(tmp_path / "one" / "DJI_0001.mp4", [1, 2])
    before = extract([first], tmp_path / "out").dataset["images"]
    second = write_clip(tmp_path / "two" / "DJI_0001.mp4", [3])
    for paths in ([first, second], [second, first]):
        images = extract(paths, tmp_path / "out").dataset["images"]
        assert [image for image in images if image["sequence"] == "DJI_0001"] == before
        (added,) = (image for image in images if image not in before)
        assert (added["id"], added["sequence"]) == (3, "two_DJI_0001")
    moved = first.rename(tmp_path / "one" / "b.mp4")
    third = write_clip(tmp_path / "three" / "DJI_0001.mp4", [4])
    second.rename(tmp_path / "two" / "c.mp4")
    with pytest.raises(InputError, match="three.*: gets the name 'DJI_0001', as .*b.mp4 has"):
        extract([moved, tmp_path / "two" / "c.mp4", third], tmp_path / "out")


@pytest.mark.parametrize("name", ["../../keep.txt", "/keep.txt", 7, None])
def test_a_damaged_record_removes_nothing(tmp_path, name):
    path = write_clip(tmp_path / "a.mp4", [1, 2])
    extract([path], tmp_path / "out")
    (tmp_path / "keep.txt").write_text("mine")
    state = tmp_path / "out" / "videos" / "a.json"
    content = json.loads(state.read_text())
    content["dropped"] = [{**content["frames"][0], "file_name": name}]
    state.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"a.json: is damaged. Remove it"):
        extract([path], tmp_path / "out")
    assert (tmp_path / "keep.txt").exists()


def test_an_image_that_is_gone_is_made_again(tmp_path, caplog):
    path = write_clip(tmp_path / "a.mp4", [1, 2])
    extract([path], tmp_path / "out")
    before = files_below(tmp_path / "out")
    (tmp_path / "out" / "images" / "a" / "a_000001_00000100ms.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        extract([path], tmp_path / "out")
    assert "images of it are missing" in caplog.text
    assert files_below(tmp_path / "out") == before


def test_folders_of_something_else_are_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [1, 2])
    out = tmp_path / "out"
    extract([path], out)
    with pytest.raises(InputError, match=r"other settings \(every 1; now every 2\)"):
        extract([path], out, FootageSettings(Selection(every=2)))
    other = write_clip(tmp_path / "b.mp4", [3])
    with pytest.raises(InputError, match=r"holds frames of 'a.mp4', which is not among"):
        extract([other], out)
    write_clip(path, [7, 8])
    with pytest.raises(InputError, match=r"a.mp4: is not the video that .* was made of"):
        extract([path], out)
    (tmp_path / "mine" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="holds images but no frames.json"):
        extract([path], tmp_path / "mine")


def test_annotations_are_not_lost(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [1, 2])
    dataset = extract([path], tmp_path / "out").dataset
    dataset["annotations"].append({"id": 1, "image_id": 1, "category_id": 1, "point": [1, 2]})
    (tmp_path / "out" / "images.json").write_text(json.dumps(dataset))
    with pytest.raises(InputError, match="holds annotations, which would be lost"):
        extract([path], tmp_path / "out")


def damaged_clip(path):
    """Forty frames, the middle of the file overwritten."""
    write_clip(path, range(40), gop=5)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    rng = np.random.default_rng(0)
    content[middle : middle + 3000] = rng.integers(0, 256, 3000, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    return path


def test_damaged_frames(tmp_path):
    """Either an error that names file and time, or what is whole, and a list of what is not."""
    path = damaged_clip(tmp_path / "bad.avi")
    good = write_clip(tmp_path / "good.mp4", [50])
    with pytest.raises(InputError, match=r"bad.avi: (at|after) [12]\.\d+ s: .* \(--skip-bad\)"):
        extract([path, good], tmp_path / "out")
    assert not (tmp_path / "out" / "images.json").exists()
    footage = extract([path, good], tmp_path / "out", skip_bad=True)
    assert footage.skipped and {p.record for p in footage.skipped} == {str(path)}
    frames = [i["frame"] for i in footage.dataset["images"] if i["sequence"] == "bad"]
    assert 20 < len(frames) < 40
    for image in footage.dataset["images"]:
        pixels = np.asarray(Image.open(tmp_path / "out" / "images" / image["file_name"]))
        # None of those that are left is smeared.
        assert min(np.abs(pixels.astype(int) - picture(s)).mean() for s in range(51)) < 8
    assert extract([path, good], tmp_path / "out", skip_bad=True) == footage


def test_a_video_that_was_cut_off(tmp_path):
    path = write_clip(tmp_path / "cut.avi", range(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut.avi: (at|after) \d\.\d+ s"):
        extract([path], tmp_path / "out")
    footage = extract([path], tmp_path / "out", skip_bad=True)
    assert footage.dataset["images"] and footage.skipped


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_files_with_random_bytes(tmp_path, suffix):
    """Whatever is overwritten or cut: our error, or images that can be opened."""
    rng = np.random.default_rng(0)
    content = write_clip(tmp_path / f"good{suffix}", range(12)).read_bytes()
    for case in range(12):
        damaged = bytearray(content[: rng.integers(1, len(content))] if case % 3 == 0 else content)
        # The first bytes, where the headers are, more often.
        for place in (rng.random(rng.integers(1, 40)) ** 3 * len(damaged)).astype(int):
            damaged[place] = rng.integers(256)
        path, out = tmp_path / f"{case}{suffix}", tmp_path / f"out{case}"
        path.write_bytes(damaged)
        try:
            footage = extract([path], out, skip_bad=bool(case % 2))
        except InputError as error:
            assert str(tmp_path) in str(error)
            continue
        for image in footage.dataset["images"]:
            with Image.open(out / "images" / image["file_name"]) as file:
                file.load()
                assert file.size == (image["width"], image["height"])


def test_bad_sources(tmp_path):
    good = write_clip(tmp_path / "in" / "good.mp4", [1])
    (tmp_path / "in" / "text.mp4").write_text("this is no video")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="photos: holds no video .* deduplicate --image-root"):
        find_videos([tmp_path / "photos"])
    with pytest.raises(InputError, match="gone.mp4: no such video or folder"):
        find_videos([tmp_path / "gone.mp4"])
    with pytest.raises(InputError, match="good.mp4: is given twice"):
        find_videos([good, tmp_path / "in"])
    with pytest.raises(InputError, match="text.mp4: cannot be opened as video"):
        open_videos(find_videos([tmp_path / "in"]))
    videos, skipped = open_videos(find_videos([tmp_path / "in"]), skip_bad=True)
    assert [video.sequence for video in videos] == ["good"]
    assert [Path(problem.record).name for problem in skipped] == ["text.mp4"]
    with pytest.raises(InputError, match="good.mp4: has no whole frame in the wanted time"):
        extract([good], tmp_path / "out", FootageSettings(Selection(start=10)))


def test_the_same_video_under_two_names(tmp_path):
    first = write_clip(tmp_path / "a.mp4", [1, 2])
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"copy.mp4: is the same video as .*a.mp4"):
        open_videos([first, copy])


def test_a_playlist_opens_no_address(tmp_path):
    path = tmp_path / "list.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(InputError, match="list.mp4: "):
        open_videos([path])


def test_names_of_sequences(tmp_path):
    paths = [tmp_path / "one" / "clip.mp4", tmp_path / "two" / "CLIP.avi", tmp_path / "ü ?.mp4"]
    for seed, path in enumerate(paths):
        write_clip(path, [seed])
    videos, _ = open_videos(paths)
    assert [video.sequence for video in videos] == ["one_clip", "two_CLIP", "ü"]
    clash = write_clip(tmp_path / "deep" / "one" / "clip.mp4", [9])
    with pytest.raises(InputError, match=r"gets the name 'one_clip', as .* does"):
        open_videos([*paths, clash])


def test_the_command(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    write_clip(source / "a.mp4", [1, 1, 2])
    write_clip(source / "b.mp4", [3, 4])
    arguments = ["frames", "--source", source, "--output-dir", out, "--classes", "person, car"]
    assert run_tool("prepare_points", *arguments, "--every", 1) == 0
    assert "4 images, 0 annotations, 2 categories; 1 near-duplicates" in capsys.readouterr().out
    with Image.open(out / "dropped.png") as montage:
        assert montage.format == "PNG"
    assert run_tool("prepare_points", *arguments) == 2
    assert "other settings" in capsys.readouterr().err
    assert run_tool("prepare_points", *arguments, "--keep-duplicates", "--threshold", 3) == 2
    assert "without use" in capsys.readouterr().err
    # The way on: to an annotation tool, and into parts by video.
    exported = tmp_path / "cvat.xml"
    images = ["--annotations", out / "images.json"]
    assert (
        run_tool("prepare_points", "export", "--format", "cvat", *images, "--output", exported) == 0
    )
    assert "a_000002_00000200ms.jpg" in exported.read_text()
    write_clip(source / "c.mp4", [5])
    assert run_tool("prepare_points", *arguments, "--every", 1) == 0
    parts = tmp_path / "parts"
    split = ["split", *images, "--output-dir", parts, "--ratio", "10:1:10"]
    assert run_tool("prepare_points", *split) == 0
    videos = [
        {image["video"] for image in json.loads((parts / f"{name}.json").read_text())["images"]}
        for name in ("train", "valid", "test")
    ]
    assert sorted(map(len, videos)) == [1, 1, 1] and len(set().union(*videos)) == 3
