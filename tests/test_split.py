"""Training and held-out parts: nothing lost, nothing in both, the same whatever the order."""

import contextlib
import json
import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.split import split_by_ratio, split_dataset
from cpr_deploy.files import InputError
from tool_runner import run_tool


def make_dataset(num_images=10, videos=5):
    """Images of `videos` folders in turn, with as many objects as their number in the list."""
    dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "seal"}]}
    dataset["info"] = {"kept": True}
    for index in range(num_images):
        video = index % videos
        image = {"id": 7 * index, "file_name": f"v{video}/{index}.png", "width": 9, "height": 9}
        dataset["images"].append({**image, "video": video})
        for _ in range(index):
            annotation = {"id": len(dataset["annotations"]), "image_id": image["id"]}
            dataset["annotations"].append({**annotation, "category_id": 1, "point": [1.0, 2.0]})
    return dataset


def ids(part):
    return {image["id"] for image in part["images"]}


def test_tiles_of_one_image_stay_together():
    dataset = make_dataset(12)
    for index, image in enumerate(dataset["images"]):
        image |= {"file_name": f"tiles/{index}.png", "full_file_name": f"{index // 4}.png"}
    train, held_out = split_dataset(dataset, val=0.3)
    assert len(held_out["images"]) == 4
    assert len({image["full_file_name"] for image in held_out["images"]}) == 1


@pytest.mark.parametrize(
    ("val", "expected"), [(0.2, 2), (0.5, 5), (0.01, 1), (0.99, 9), (0.26, 3), (0.24, 2)]
)
def test_images_are_divided_with_their_annotations(val, expected):
    dataset = make_dataset()
    train, held_out = split_dataset(dataset, val=val)
    assert len(held_out["images"]) == expected
    assert not ids(train) & ids(held_out) and ids(train) | ids(held_out) == ids(dataset)
    for part in (train, held_out):
        assert part["info"] == dataset["info"] and part["categories"] == dataset["categories"]
        assert part["images"] == [i for i in dataset["images"] if i["id"] in ids(part)]
        wanted = [a for a in dataset["annotations"] if a["image_id"] in ids(part)]
        assert part["annotations"] == wanted


def test_the_division_depends_on_names_and_seed_only():
    dataset = make_dataset(40)
    names = {i["file_name"] for i in split_dataset(dataset)[1]["images"]}
    random.Random(0).shuffle(dataset["images"])
    for image in dataset["images"]:
        image["id"] += 1000
    dataset["annotations"] = []
    assert {i["file_name"] for i in split_dataset(dataset)[1]["images"]} == names
    assert {i["file_name"] for i in split_dataset(dataset, seed=1)[1]["images"]} != names


def test_every_image_can_be_held_out():
    dataset = make_dataset()
    seen = set().union(*(ids(split_dataset(dataset, seed=seed)[1]) for seed in range(60)))
    assert seen == ids(dataset)


@pytest.mark.parametrize("key", ["video", "folder"])
def test_sequences_stay_together(key):
    train, held_out = split_dataset(make_dataset(), val=0.4, by=key)
    videos = [{image["video"] for image in part["images"]} for part in (train, held_out)]
    assert not videos[0] & videos[1]
    assert len(held_out["images"]) == 4


def test_one_long_sequence_is_no_reason_to_hold_out_more():
    """Sequences of 1, 1 and 8 images: whatever comes first, both parts have one."""
    dataset = make_dataset(10, videos=1)
    for image, video in zip(dataset["images"], [0, 1] + [2] * 8, strict=True):
        image["video"] = video
    for seed in range(20):
        train, held_out = split_dataset(dataset, val=0.2, seed=seed, by="video")
        assert train["images"] and len(held_out["images"]) in (1, 2, 8)


def test_tiles_of_one_file_stay_together():
    dataset = make_dataset()
    for index, image in enumerate(dataset["images"]):
        image.update(file_name=f"{index // 5}.png", corner=[0, 0, 9, 9])
    train, held_out = split_dataset(dataset, val=0.2)
    assert (len(train["images"]), len(held_out["images"])) == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val": 0}, "above 0 and below 1"),
        ({"val": float("nan")}, "above 0"),
        ({"by": "camera"}, "image id 0: has no key 'camera'"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        split_dataset(make_dataset(), **arguments)


def test_frames_of_one_sequence_stay_together_unasked(caplog):
    """As `frames` writes them; to divide them one by one has to be asked for."""
    dataset = make_dataset(10)
    for image in dataset["images"]:
        image["sequence"] = image.pop("video")
    with caplog.at_level(logging.INFO):
        parts = split_dataset(dataset, val=0.4)
    assert "the same 'sequence' stay in one part" in caplog.text
    sequences = [{image["sequence"] for image in part["images"]} for part in parts]
    assert not sequences[0] & sequences[1]
    assert parts == split_dataset(dataset, val=0.4, by="sequence")
    alone = [split_dataset(dataset, val=0.4, by="image", seed=seed)[1] for seed in range(9)]
    assert any(len({image["sequence"] for image in part["images"]}) > 2 for part in alone)
    del dataset["images"][3]["sequence"]
    with pytest.raises(InputError, match="image id 21: has no 'sequence', others have"):
        split_dataset(dataset)


def test_ten_to_one_to_ten():
    """Whole videos; exact where they are of one length."""
    dataset = make_dataset(63, videos=21)
    parts = split_by_ratio(dataset, by="video")
    assert [len(part["images"]) for part in parts] == [30, 3, 30]
    videos = [{image["video"] for image in part["images"]} for part in parts]
    assert [len(names) for names in videos] == [10, 1, 10] and len(set().union(*videos)) == 21
    assert parts == split_by_ratio(dataset, (20, 2, 20), by="video")
    assert parts != split_by_ratio(dataset, seed=1, by="video")
    random.Random(0).shuffle(dataset["images"])
    again = split_by_ratio(dataset, by="video")
    assert [ids(part) for part in again] == [ids(part) for part in parts]


@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=9),
    st.lists(st.floats(0.1, 20), min_size=2, max_size=3),
    st.integers(0, 3),
)
def test_nothing_is_lost_and_no_part_is_empty(sizes, ratio, seed):
    dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "seal"}]}
    for sequence, size in enumerate(sizes):
        for number in range(size):
            image_id = f"{sequence}/{number}"
            dataset["images"].append({"id": image_id, "file_name": image_id, "sequence": sequence})
            annotation = {"id": len(dataset["images"]), "image_id": image_id, "category_id": 1}
            dataset["annotations"].append(annotation)
    parts = split_by_ratio(dataset, ratio, seed=seed)
    assert len(parts) == len(ratio) and all(part["images"] for part in parts)
    for key in ("images", "annotations"):
        found = [record["id"] for part in parts for record in part[key]]
        assert sorted(found) == sorted(record["id"] for record in dataset[key])
    sequences = [{image["sequence"] for image in part["images"]} for part in parts]
    assert sum(map(len, sequences)) == len(sizes)
    # No single sequence could have been moved for the better by more than it holds itself.
    for part, share in zip(parts, ratio, strict=True):
        wanted = share / sum(ratio) * sum(sizes)
        assert abs(len(part["images"]) - wanted) < 2 * max(sizes) + 1


@pytest.mark.parametrize("ratio", [(1,), (1, 0, 1), (1, -1), (1, float("inf")), (float("nan"), 1)])
def test_bad_ratios_are_refused(ratio):
    with pytest.raises(InputError, match="two or more numbers above 0"):
        split_by_ratio(make_dataset(), ratio)


def test_too_few_sequences_for_three_parts():
    dataset = make_dataset(8, videos=2)
    for image in dataset["images"]:
        image["sequence"] = image.pop("video")
    with pytest.raises(InputError, match=r"2 different values of 'sequence': .* divide by \"image"):
        split_by_ratio(dataset)
    assert len(split_by_ratio(dataset, by="image")) == 3


def test_one_image_or_sequence_cannot_be_divided():
    with pytest.raises(InputError, match="1 different image files: too few for 2 parts"):
        split_dataset(make_dataset(1))
    with pytest.raises(InputError, match="1 different values of 'folder': too few"):
        split_dataset(make_dataset(4, videos=1), by="folder")


def test_a_class_that_is_only_held_out_is_pointed_out(caplog):
    dataset = make_dataset(2)
    dataset["categories"].append({"id": 2, "name": "bird"})
    with caplog.at_level(logging.WARNING):
        split_dataset(dataset)
    assert "no 'bird'" in caplog.text


def test_the_command(tmp_path, capsys):
    path, output = tmp_path / "clicks.json", tmp_path / "new"
    path.write_text(json.dumps(make_dataset()))
    arguments = ["split", "--annotations", path, "--output-dir", output, "--val", "0.2"]
    assert run_tool("prepare_points", *arguments, "--by-sequence", "video") == 0
    assert "8 images" in capsys.readouterr().out
    train, held_out = (json.loads((output / f"{n}.json").read_text()) for n in ("train", "val"))
    assert (len(train["images"]), len(held_out["images"])) == (8, 2)
    assert run_tool("prepare_points", *arguments, "--val", "2") == 2
    assert f"{path}: val 2.0" in capsys.readouterr().err
    arguments[2] = output / "train.json"
    assert run_tool("prepare_points", *arguments) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_the_command_for_three_parts(tmp_path, capsys):
    path, output = tmp_path / "clicks.json", tmp_path / "new"
    path.write_text(json.dumps(make_dataset(21)))
    arguments = ["split", "--annotations", path, "--output-dir", output]
    assert run_tool("prepare_points", *arguments, "--ratio", "10:1:10") == 0
    assert "10 images" in capsys.readouterr().out
    counts = [
        len(json.loads((output / f"{name}.json").read_text())["images"])
        for name in ("train", "valid", "test")
    ]
    assert counts == [10, 1, 10]
    for ratio in ("10:1", "a:b:c", "1:0:1"):
        with contextlib.suppress(SystemExit):
            assert run_tool("prepare_points", *arguments, "--ratio", ratio) == 2
        assert "ratio" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_tool("prepare_points", *arguments, "--ratio", "1:1:1", "--val", "0.2")
