"""Images that two parts of a data set have in common."""

import time

import numpy as np
import pytest
from PIL import Image

from cpr.data.footage.near_duplicates import THRESHOLD
from cpr.data.quality.image_facts import ImageFacts, inspect_images
from cpr.data.quality.leaks import are_one_folder, find_leaks
from cpr_deploy.files import InputError


def part(*names, **more):
    """Images of these names, whose ids count from 1."""
    images = [{"id": n, "file_name": name, **more} for n, name in enumerate(names, 1)]
    return {"images": images, "annotations": [], "categories": []}


def leaks(first, second, threshold=THRESHOLD, **settings):
    """(rule, record, whether it is an error) of each leak."""
    found = find_leaks(first, second, threshold=threshold, **settings)
    return [(p.rule, p.record, p.is_error) for p in found]


def test_files_of_one_name():
    both = ("leak-file", "image id 2", True)
    assert leaks(part("a.png", "b.png"), part("b.png", "c.png")) == [both]
    # In folders of their own, names alone say nothing, unless the images were not read.
    assert leaks(part("a.png", "b.png"), part("b.png"), same_folder=False) == [both]
    settings = {"facts": {}, "other_facts": {}, "same_folder": False}
    assert leaks(part("a.png", "b.png"), part("b.png"), **settings) == []


def test_tiles_are_of_their_full_image():
    first = part("a.png", "a.png", corner=[0, 0, 5, 5])
    second = part("tiles/a_0.png", full_file_name="a.png", cut_corner=[0, 0, 5, 5])
    assert leaks(first, second) == [("leak-file", "image id 1", True)], "a file is told once"
    assert leaks(second, first) == [("leak-file", "image id 1", True)]


def test_sequences():
    first, second = part("a.png", "b.png", "c.png"), part("d.png", "e.png")
    for image, sequence in zip(first["images"], ("dive 1", "dive 1", 7), strict=True):
        image["sequence"] = sequence
    second["images"][0]["sequence"] = "dive 1"
    second["images"][1]["sequence"] = "7"  # text is no number
    (problem,) = find_leaks(first, second, threshold=0)
    assert problem.record == "sequence 'dive 1'" and problem.is_error
    assert "2 of its images are in this part, 1 in the other" in problem.text


def test_many_sequences_of_both_parts():
    """Each is told once, in a time that does not grow with their square."""
    images = part(*(f"{n}.png" for n in range(20_000)))
    for number, image in enumerate(images["images"]):
        image["sequence"] = number // 2
    start = time.monotonic()
    assert len(leaks(images, images)) == 10_000
    assert time.monotonic() - start < 10  # it takes a tenth of a second


def test_equal_files_and_looks():
    def fact(digest, near_hash):
        return ImageFacts(9, 9, None, digest, near_hash)

    first = part("a.png", "b.png", "c.png", "d.png", "e.png")
    facts = {
        "a.png": fact(b"1", 0),
        "b.png": fact(b"2", 0b111),
        "c.png": fact(b"3", 2**64 - 1),
        "d.png": ImageFacts(problem="cannot be read"),
        "e.png": fact(b"5", 0b11111),
    }
    second = part("x.png", "y.png", "z.png")
    other_facts = {
        "x.png": fact(b"1", 0),
        "y.png": fact(b"7", 0b1),
        "z.png": ImageFacts(problem="cannot be read"),
    }
    settings = {"facts": facts, "other_facts": other_facts, "same_folder": False}
    found = list(find_leaks(first, second, threshold=4, **settings))
    assert [(p.rule, p.record, p.is_error) for p in found] == [
        ("leak-file", "image id 1", True),
        ("leak-near-duplicate", "image id 2", False),
        ("leak-near-duplicate", "image id 5", False),
    ]
    assert "'x.png'" in found[0].text
    assert "'y.png'" in found[1].text and "2 of 64 bits" in found[1].text
    assert "'y.png'" in found[2].text and "4 of 64 bits" in found[2].text
    assert leaks(first, second, 0, **settings) == [("leak-file", "image id 1", True)]


def test_many_images_that_all_look_alike():
    """Open sea: each image is told once, with the one that is nearest, and memory stays small."""
    names = [f"{n}.png" for n in range(700)]
    others = [f"other {n}.png" for n in range(700)]
    facts = {n: ImageFacts(9, 9, None, n.encode(), i % 3) for i, n in enumerate(names)}
    other_facts = {n: ImageFacts(9, 9, None, n.encode(), i % 3) for i, n in enumerate(others)}
    found = list(
        find_leaks(
            part(*names), part(*others), facts=facts, other_facts=other_facts,
            same_folder=False, threshold=4,
        )
    )  # fmt: skip
    assert len(found) == 700
    assert all(
        f"'other {i % 3}.png'" in p.text and "0 of 64" in p.text for i, p in enumerate(found)
    )


def test_threshold():
    with pytest.raises(InputError, match="threshold 65"):
        leaks(part(), part(), 65)


def test_one_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert are_one_folder(tmp_path, tmp_path / "link") and are_one_folder(None, tmp_path)
    assert not are_one_folder(tmp_path, tmp_path / "other")


def test_facts_of_files(tmp_path):
    """Copies in another format look alike; a copy under another name is the same file."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((160, 120))
    )
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=80)
    Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "turned.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    names = ["a.png", "a.jpg", "sub/copy.png", "turned.png", "cut.png", "no.png", "../no.png"]
    seen = []

    def progress(iterable, total):
        seen.append(total)
        return iterable

    facts = inspect_images(tmp_path, names + names[:2], hashes=True, workers=3, progress=progress)
    assert list(facts) == names and seen == [7]
    assert facts["a.png"].digest == facts["sub/copy.png"].digest != facts["a.jpg"].digest
    assert facts["a.png"][:3] == (160, 120, None)

    def bits(first, second):
        return (facts[first].near_hash ^ facts[second].near_hash).bit_count()

    assert bits("a.png", "a.jpg") <= THRESHOLD < 15 < bits("a.png", "turned.png")
    assert "truncated" in facts["cut.png"].problem
    assert "no such image" in facts["no.png"].problem and "leads out" in facts["../no.png"].problem
    plain = inspect_images(tmp_path, names)
    assert all(fact.digest is None and fact.near_hash is None for fact in plain.values())
    assert [fact[:3] for fact in plain.values()] == [fact[:3] for fact in facts.values()]
