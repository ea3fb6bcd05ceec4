"""deploy/pick_points.py on bags: what it writes, and what it says about bags with faults."""

import json
import re

import numpy as np
import pytest

import pick_bags
import ros_parts
import spot_model
from cpr_deploy.files import write_json
from cpr_deploy.ros.bags import BagReader, BagWriter, Recorded
from cpr_deploy.ros.pick_pipeline import DIAGNOSTICS, OUTPUTS, PickPipeline
from cpr_deploy.ros.typestore import from_cdr
from tool_runner import run_script

FRAMES = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picks")
    (folder / "model.onnx").write_bytes(spot_model.model_bytes(pick_bags.MAX_POINTS))
    pick_bags.write_bag(folder / "in.mcap", FRAMES)
    return folder


def run(files, tmp_path, bag, *words, output="out.mcap"):
    """Exit code, records; the bag is at tmp_path / output."""
    records = tmp_path / "out.jsonl"
    code = run_script(
        *("deploy/pick_points.py", "--model", files / "model.onnx", "--threads", 1),
        *("--bag", bag, "--output", tmp_path / output, "--picks", records, *words),
    )
    lines = records.read_text().splitlines() if records.exists() else []
    return code, [json.loads(line) for line in lines]


def check_end(records):
    """Every image is accounted for."""
    end = records[-1]
    assert end["type"] == "end"
    picks = [record for record in records if record["type"] == "picks"]
    assert end["images"] == end["frames"] == len(picks)
    assert end["refused"] == sum(not record["live"] for record in picks)
    return picks


def places_of(record):
    found = np.array([target["position"] for target in record["targets"]])
    return np.linalg.norm(found[:, None] - pick_bags.places(), axis=2).min(axis=1)


def test_a_bag(files, tmp_path, capsys):
    code, records = run(files, tmp_path, files / "in.mcap")
    assert code == 0
    picks = check_end(records)
    assert len(picks) == FRAMES
    # The picker wants an object in three frames in a row.
    assert [len(record["targets"]) for record in picks] == [0, 0, 3, 3, 3, 3]
    assert {r["code"] for r in picks[0]["refusals"]} == {"unstable"}
    for record in picks[2:]:
        assert places_of(record).max() < 0.002
    told = capsys.readouterr().err
    assert "6 images, 6 looked at, 0 of them refused as a whole, 12 targets" in told
    assert "refusals: unstable 6" in told and records[-1]["refusals"] == {"unstable": 6}

    topics = {f"/picking/{name}": kind for name, kind in OUTPUTS.items()}
    topics |= dict([DIAGNOSTICS])
    with BagReader(tmp_path / "out.mcap") as bag:
        assert bag.topics == topics
        found = {name: [] for name in topics}
        for message in bag.messages(topics):
            found[message.topic].append((message.time, from_cdr(message.data, message.type, "x")))
    assert {name: len(sent) for name, sent in found.items()} == {
        **dict.fromkeys(topics, FRAMES),
        "/picking/point": FRAMES - 2,
        "/diagnostics": 2,
    }
    status = found["/diagnostics"][-1][1].status[0]
    assert (status.name, status.level, status.message) == ("picking", 0, "3 targets")
    told = [json.loads(message.data) for _, message in found["/picking/result"]]
    assert told == [{k: v for k, v in r.items() if k not in ("source", "at")} for r in picks]
    for (time, poses), record in zip(found["/picking/poses"], picks, strict=True):
        positions = [[p.position.x, p.position.y, p.position.z] for p in poses.poses]
        wanted = [target["position"] for target in record["targets"]]
        np.testing.assert_allclose(
            np.reshape(positions, (-1, 3)), np.reshape(wanted, (-1, 3)), atol=1e-6
        )
        # Known after its image was taken, by what was recorded last.
        assert (
            time / 1e9 == pytest.approx(record["at"], abs=1e-6) and record["at"] > record["stamp"]
        )


def test_other_kinds_of_bags_give_the_same(files, tmp_path):
    _, wanted = run(files, tmp_path, files / "in.mcap")
    for kind, output in (("in.db3", "out.db3"), ("in", "out")):
        pick_bags.write_bag(tmp_path / kind, FRAMES)
        code, records = run(files, tmp_path, tmp_path / kind, output=output)
        assert code == 0 and (tmp_path / output).exists()
        without_source = [{**record, "source": wanted[0]["source"]} for record in records]
        assert without_source == wanted


def test_with_the_input_for_foxglove(files, tmp_path):
    run(files, tmp_path, files / "in.mcap", "--with-input", "--prefix", "/mine")
    with BagReader(tmp_path / "out.mcap") as bag:
        assert set(pick_bags.TOPICS.values()) | {"/tf_static", "/mine/annotations"} <= set(
            bag.topics
        )
        topic = pick_bags.TOPICS["image"]
        images = [message.data for message in bag.messages({topic: bag.topics[topic]})]
    with BagReader(files / "in.mcap") as bag:
        assert images == [m.data for m in bag.messages({topic: bag.topics[topic]})]


def test_the_place_of_the_camera_in_a_file(files, tmp_path):
    pick_bags.write_bag(tmp_path / "in.mcap", 3, tf=False)
    write_json(tmp_path / "place.json", pick_bags.BASE_FROM_CAMERA.to_dict())
    words = ("--transform", tmp_path / "place.json", "--base-frame", "table")
    code, records = run(files, tmp_path, tmp_path / "in.mcap", *words)
    assert code == 0 and places_of(records[2]).max() < 0.002
    assert records[2]["frame_id"] == records[2]["targets"][0]["frame_id"] == "table"


def test_limits_in_a_file_and_few_frames(files, tmp_path):
    write_json(tmp_path / "limits.json", {"stable_frames": 1, "max_range": 0.5})
    words = ("--settings", tmp_path / "limits.json", "--max-frames", 2)
    _, records = run(files, tmp_path, files / "in.mcap", *words)
    assert [record["type"] for record in records] == ["picks", "picks", "end"]
    assert {r["code"] for record in records[:2] for r in record["refusals"]} == {"out_of_range"}


# --- faults ---------------------------------------------------------------------------------------


def test_a_cut_bag(files, tmp_path, capsys):
    """What is before the cut is there, and that there was a cut is told."""
    data = (files / "in.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(data[: int(0.7 * len(data))])
    code, records = run(files, tmp_path, cut)
    assert code == 1 and "breaks off" in capsys.readouterr().err
    (error,) = [record for record in records if record["type"] == "error"]
    assert "breaks off" in error["message"]
    picks = check_end(records)
    assert 3 <= len(picks) < FRAMES and places_of(picks[2]).max() < 0.002
    with BagReader(tmp_path / "out.mcap") as bag:
        kind = OUTPUTS["result"]
        assert len(list(bag.messages({"/picking/result": kind}))) == len(picks)


def test_damaged_messages_are_told_and_the_rest_is_used(files, tmp_path):
    with BagReader(files / "in.mcap") as source, BagWriter(tmp_path / "bad.mcap") as bag:
        for number, message in enumerate(source.messages(source.topics)):
            data = message.data[: len(message.data) // 2] if number == 4 else message.data
            bag.copy(Recorded(message.topic, message.type, message.time, data))
    code, records = run(files, tmp_path, tmp_path / "bad.mcap")
    assert code == 0
    (fault,) = [record for record in records if record["type"] == "fault"]
    assert "The message is damaged" in fault["message"]
    check_end(records)
    assert records[-1]["faults"] == 1


def test_images_without_depth(files, tmp_path):
    def change(number, found):
        return found if number != 2 else {k: v for k, v in found.items() if k != "depth"}

    pick_bags.write_bag(tmp_path / "in.mcap", FRAMES, change=change)
    _, records = run(files, tmp_path, tmp_path / "in.mcap")
    picks = check_end(records)
    (refused,) = [record for record in picks if not record["live"]]
    assert refused["refusals"][0]["code"] == "unsynchronised"
    assert refused["stamp"] == pytest.approx((ros_parts.START + 2 * pick_bags.STEP) / 1e9)


def test_clocks_that_differ(files, tmp_path):
    """Depth of another clock: nothing fits, and that is told for each image."""

    def change(number, found):
        stamp = ros_parts.START + number * pick_bags.STEP + 25_000_000
        return {**found, "depth": ros_parts.image(pick_bags.depth(number), "16UC1", stamp)}

    pick_bags.write_bag(tmp_path / "in.mcap", FRAMES, change=change)
    _, records = run(files, tmp_path, tmp_path / "in.mcap")
    picks = check_end(records)
    reasons = {r["reason"] for record in picks for r in record["refusals"]}
    assert len(picks) == FRAMES and all("0.025 s" in reason for reason in reasons)


def test_a_recorder_with_another_clock(files, tmp_path):
    with BagReader(files / "in.mcap") as source, BagWriter(tmp_path / "late.mcap") as bag:
        for message in source.messages(source.topics):
            bag.copy(message._replace(time=message.time + 3600 * 10**9))
    _, records = run(files, tmp_path, tmp_path / "late.mcap")
    assert {r["code"] for record in check_end(records) for r in record["refusals"]} == {"stale"}
    _, records = run(files, tmp_path, tmp_path / "late.mcap", "--clock", "stamp")
    picks = check_end(records)
    assert [len(record["targets"]) for record in picks] == [0, 0, 3, 3, 3, 3]
    assert {record["age_ms"] for record in picks} == {0.0}


def test_ctrl_c_keeps_what_is_done(files, tmp_path, monkeypatch):
    frame = PickPipeline.take_frame

    def interrupted(self, now):
        if self.counts["frames"] == 4:
            raise KeyboardInterrupt
        return frame(self, now)

    monkeypatch.setattr(PickPipeline, "take_frame", interrupted)
    code, records = run(files, tmp_path, files / "in.mcap")
    assert code == 130 and records[-1]["interrupted"]
    assert [record["type"] for record in records] == ["picks"] * 4 + ["end"]
    with BagReader(tmp_path / "out.mcap") as bag:
        assert len(list(bag.messages({"/picking/result": OUTPUTS["result"]}))) == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--depth", pick_bags.TOPICS["image"]], "'/camera/color/image_raw' is given twice"),
        (["--image", "/no"], "'/no' for image is not in the bag; of .* are: /camera/aligned"),
        (["--depth", "/camera/color/camera_info"], "is sensor_msgs/msg/CameraInfo; of"),
        (["--info", "/tf_static"], "for info is tf2_msgs/msg/TFMessage; .*are: /camera/color/cam"),
        (["--base-frame", ""], "base_frame"),
        (["--slop", "-1"], "slop -1"),
        (["--max-frames", "0"], "at least 1"),
        (["--settings", "no.json"], "no.json: no such file"),
        (["--score-thresh", "2"], "score threshold 2"),
    ],
)
def test_options_that_are_refused(files, tmp_path, words, text, capsys):
    code, records = run(files, tmp_path, files / "in.mcap", *words)
    assert code == 2 and records == []
    assert re.search(text, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_bags_that_are_refused(files, tmp_path, capsys):
    pick_bags.write_bag(tmp_path / "no_tf.mcap", 1, tf=False)
    assert run(files, tmp_path, tmp_path / "no_tf.mcap")[0] == 2
    assert "has no transforms (/tf, /tf_static)" in capsys.readouterr().err
    assert run(files, tmp_path, tmp_path / "no.mcap")[0] == 2
    assert "no such bag" in capsys.readouterr().err
    assert run(files, tmp_path, tmp_path / "no_tf.mcap", output="no_tf.mcap")[0] == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_a_wrong_base_frame_is_told_for_each_image(files, tmp_path):
    code, records = run(files, tmp_path, files / "in.mcap", "--base-frame", "world")
    picks = check_end(records)
    assert code == 0 and len(picks) == FRAMES
    refusals = [r for record in picks for r in record["refusals"]]
    assert {r["code"] for r in refusals} == {"no_transform"}
    assert "'world' has no parent" in refusals[0]["reason"]


def test_nothing_to_write(files, capsys):
    words = ("--model", files / "model.onnx", "--bag", files / "in.mcap")
    assert run_script("deploy/pick_points.py", *words) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert run_script("deploy/pick_points.py", *words, "--picks", "-", "--with-input") == 2
    assert "--with-input: needs --output" in capsys.readouterr().err
