"""Perceptual hashes: against their definition, ImageHash and brute force; and what is dropped."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cpr.data.footage.deduplication import dataset_of_folder, deduplicate
from cpr.data.footage.near_duplicates import (
    find_near_duplicates,
    hash_image,
    hash_images,
    near_duplicate_pairs,
)
from cpr.visualization.duplicates import MAX_PAIRS, DuplicatePair, duplicates_montage
from cpr_deploy.files import InputError
from footage_clips import picture
from tool_runner import run_tool

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 7), max_size=12)


def bits(first, second):
    return (int(first) ^ int(second)).bit_count()


def test_the_hash_is_that_of_its_definition():
    """The cosine transform as a double sum over cosines, the median by sorting."""
    image = picture(3)
    grey = np.asarray(
        Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS), float
    )
    places = np.arange(32)
    cosines = np.cos(np.pi * np.outer(np.arange(8), 2 * places + 1) / 64)
    low = (cosines @ grey @ cosines.T).ravel()
    middle = sorted(low)[31:33]
    expected = sum(1 << (63 - place) for place in range(64) if low[place] > sum(middle) / 2)
    assert hash_image(image) == expected


def test_the_hash_is_that_of_imagehash():
    imagehash = pytest.importorskip("imagehash")
    for seed in range(20):
        image = picture(seed)
        assert f"{hash_image(image):016x}" == str(imagehash.phash(Image.fromarray(image)))


def test_what_is_alike_is_close():
    """Another size and brightness change little; other and mirrored scenes differ much."""
    for seed in range(5):
        image = picture(seed)
        original = hash_image(image)
        wide = np.asarray(Image.fromarray(image).resize((160, 120), Image.Resampling.BICUBIC))
        dark = np.rint(0.7 * image).astype(np.uint8)
        assert max(bits(original, hash_image(i)) for i in (wide, dark)) <= 8
        other = [hash_image(picture(seed + 100)), hash_image(image[:, ::-1])]
        assert min(bits(original, hash_) for hash_ in other) >= 14


def test_flat_images_have_no_noise_in_their_hash():
    flat = {hash_image(np.full((50, 70, 3), value, np.uint8)) for value in (1, 77, 128, 255)}
    assert flat == {1 << 63}
    assert hash_image(np.zeros((1, 1, 3), np.uint8)) == 0


@given(HASHES, HASHES, st.integers(0, 64))
def test_pairs_are_those_of_brute_force(first, second, threshold):
    pairs, distances = near_duplicate_pairs(
        np.array(first, np.uint64), np.array(second, np.uint64), threshold
    )
    expected = [
        (i, j) for i, a in enumerate(first) for j, b in enumerate(second) if bits(a, b) <= threshold
    ]
    assert [tuple(pair) for pair in pairs.tolist()] == expected
    assert distances.tolist() == [bits(first[i], second[j]) for i, j in expected]
    assert pairs.shape == (len(expected), 2) and pairs.dtype == np.int64


def test_many_pairs_in_pieces(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 2**64, 300, dtype=np.uint64)
    whole = near_duplicate_pairs(hashes, hashes, 24)
    monkeypatch.setattr("cpr.data.footage.near_duplicates._CHUNK", 1000)
    for one, other in zip(whole, near_duplicate_pairs(hashes, hashes, 24), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threshold", [-1, 65])
def test_no_such_threshold(threshold):
    with pytest.raises(InputError, match="a number of bits, 0 to 64"):
        near_duplicate_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), threshold)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.sampled_from("ab")), max_size=20),
    st.integers(0, 4),
    st.booleans(),
)
def test_what_is_dropped_is_near_to_what_is_kept(images, threshold, across):
    """Against the rule, image by image."""
    hashes, sequences = [h for h, _ in images], [s for _, s in images]
    of, distances = find_near_duplicates(np.array(hashes), sequences, threshold, across=across)
    kept = []
    for place in range(len(images)):
        own = [k for k in kept if sequences[k] == sequences[place]][-1:]
        others = [k for k in kept if sequences[k] != sequences[place]] if across else []
        apart = {k: bits(hashes[k], hashes[place]) for k in own + others}
        if min(apart.values(), default=99) <= threshold:
            assert apart[of[place]] == min(apart.values()) == distances[place]
        else:
            assert of[place] == place and distances[place] == 0
            kept.append(place)


def make_images(root, seeds):
    """name -> seed of its picture; the records, without annotations."""
    for name, seed in seeds.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(root / name)
    return dataset_of_folder(root, ["seal"])


def test_hashes_of_records_and_tiles(tmp_path):
    records = make_images(tmp_path, {"a.png": 1, "b.png": 2})["images"]
    tile = {"id": 9, "file_name": "b.png", "width": 32, "height": 24, "corner": [32, 24, 64, 48]}
    missing = {"id": "gone", "file_name": "c.png", "width": 1, "height": 1}
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    cut = {**records[0], "id": 4, "file_name": "d.png"}
    wrong = {**records[0], "id": 5, "width": 3}
    seen = []

    def progress(iterable, total):
        seen.append(total)
        return iterable

    all_records = [records[1], missing, tile, records[0], cut, wrong]
    hashes, problems = hash_images(tmp_path, all_records, workers=2, progress=progress)
    expected = [hash_image(picture(2)), hash_image(picture(2)[24:48, 32:]), hash_image(picture(1))]
    assert hashes.dtype == np.uint64 and hashes[[0, 2, 3]].tolist() == expected
    assert list(problems) == [1, 4, 5] and seen == [4]
    assert problems[1].record == "image id 'gone'" and "no such image" in problems[1].text
    assert "cannot be read as an image" in problems[4].text
    assert "is 64x48 (width x height), the annotation file says 3x48" in problems[5].text


def test_deduplicating_a_data_set(tmp_path):
    seeds = {"a/img2.png": 1, "a/img10.png": 1, "a/img9.png": 2, "b/0.png": 1, "b/1.png": 1}
    dataset = make_images(tmp_path, seeds)
    names = {image["file_name"]: image["id"] for image in dataset["images"]}
    for number, image_id in enumerate([*names.values()] * 2):
        annotation = {"id": number, "image_id": image_id, "category_id": 1, "point": [1.0, 2.0]}
        dataset["annotations"].append(annotation)
    result = deduplicate(dataset, tmp_path)
    # img2, img9, img10 is their order: no two neighbours are alike.
    assert [(d["file_name"], d["duplicate_of"]) for d in result.dropped] == [("b/1.png", "b/0.png")]
    assert (
        result.dropped[0] | {"distance": 0, "annotations": 2, "sequence": "b"}
        == (result.dropped[0])
    )
    gone = names["b/1.png"]
    assert result.dataset["images"] == [i for i in dataset["images"] if i["id"] != gone]
    assert result.dataset["annotations"] == [
        a for a in dataset["annotations"] if a["image_id"] != gone
    ]
    across = deduplicate(dataset, tmp_path, across=True)
    assert [d["file_name"] for d in across.dropped] == ["b/0.png", "b/1.png"]
    for image in dataset["images"]:
        image["frame"] = {"a/img2.png": 0, "a/img10.png": 1, "a/img9.png": 2}.get(
            image["file_name"], 7
        )
    assert len(deduplicate(dataset, tmp_path).dropped) == 2


def test_bad_data_sets(tmp_path):
    dataset = make_images(tmp_path / "images", {"a.png": 1, "b.png": 1, "c.png": 2})
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="image id 2: .*is not an image of a known format"):
        deduplicate(dataset, tmp_path / "images")
    result = deduplicate(dataset, tmp_path / "images", skip_bad=True)
    assert len(result.dataset["images"]) == 3 and len(result.skipped) == 1
    with pytest.raises(InputError, match="no such image folder"):
        deduplicate(dataset, tmp_path / "gone")
    with pytest.raises(InputError, match="has no key 'camera'"):
        deduplicate(dataset, tmp_path / "images", by="camera")
    dataset["images"][0]["corner"] = [0, 0, 64, 48]
    with pytest.raises(InputError, match="holds tiles"):
        deduplicate(dataset, tmp_path / "images")


def test_the_montage_shows_the_least_alike_first():
    def pair(distance):
        value = 4 * distance
        images = (np.full((30, 40, 3), 255, np.uint8), np.full((30, 40, 3), value, np.uint8))
        return DuplicatePair("k", "d", distance, lambda: images[0], lambda: images[1])

    read = []
    pairs = [pair(distance) for distance in range(MAX_PAIRS + 6)]
    pairs = [p._replace(read_kept=lambda p=p: read.append(p.distance) or p[3]()) for p in pairs]
    content = duplicates_montage(pairs)
    assert content.startswith(b"\x89PNG")
    assert read == list(range(MAX_PAIRS + 5, 5, -1))


def test_the_command(tmp_path, capsys):
    images, output = tmp_path / "images", tmp_path / "out" / "new.json"
    make_images(images, {"a.png": 1, "b.png": 1, "c.png": 2})
    folder = ["deduplicate", "--image-root", images, "--output", output]
    assert run_tool("prepare_points", *folder, "--classes", "seal") == 0
    assert "2 images, 0 annotations, 1 categories; 1 near-dup" in capsys.readouterr().out
    dropped = json.loads((tmp_path / "out" / "new_dropped.json").read_text())
    assert [d["file_name"] for d in dropped] == ["b.png"]
    assert (tmp_path / "out" / "new_dropped.png").is_file()
    assert run_tool("prepare_points", *folder) == 2
    assert "give --annotations, or --classes" in capsys.readouterr().err
    assert run_tool("prepare_points", *folder, "--annotations", output) == 2
    assert "would be overwritten" in capsys.readouterr().err
    again = ["--annotations", output, "--output", tmp_path / "again.json"]
    assert run_tool("prepare_points", *folder[:3], *again) == 0
    assert "0 near-duplicates" in capsys.readouterr().out
    assert not (tmp_path / "again_dropped.png").exists()
    assert run_tool("prepare_points", *folder[:3], *again, "--threshold", 65) == 2
    assert f"{output}: threshold 65" in capsys.readouterr().err
