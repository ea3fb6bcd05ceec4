"""Which messages belong together: against a search through all pairs."""

import types

import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.ros.synchroniser import Synchroniser

MS = 1_000_000
START = 1_700_000_000_000 * MS


def message(stamp, name=""):
    time = types.SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9)
    return types.SimpleNamespace(header=types.SimpleNamespace(stamp=time), stamp=stamp, name=name)


def run(synchroniser, sent, flush=True):
    """sent: (topic, stamp in ms) in the order of arrival."""
    found = []
    for topic, stamp in sent:
        found += synchroniser.add(topic, message(START + round(stamp * MS)))
    return found + (list(synchroniser.flush()) if flush else [])


def told(found):
    """(image, depth or None) in ms."""
    return [
        ((t.image.stamp - START) / MS, None if t.depth is None else (t.depth.stamp - START) / MS)
        for t in found
    ]


def mutual_nearest(images, depths, slop):
    pairs = {}
    for image in images:
        best = min(depths, key=lambda d: (abs(d - image), d), default=None)
        near = best is not None and abs(best - image) <= slop
        if near and all(abs(best - image) <= abs(best - other) for other in images):
            pairs[image] = best
    return pairs


def test_equal_stamps_are_known_at_once():
    synchroniser = Synchroniser()
    sent = [("image", 0), ("info", 0), ("depth", 0)]
    assert told(run(synchroniser, sent, flush=False)) == [(0, 0)]


@pytest.mark.parametrize("seed", range(40))
def test_against_all_pairs_in_any_order_of_arrival(seed):
    rng = np.random.default_rng(seed)
    slop = float(rng.choice([5, 20, 40]))
    images = sorted(set(rng.integers(0, 3000, 60).tolist()))
    depths = sorted(set(rng.integers(0, 3000, int(rng.choice([10, 60, 120]))).tolist()))
    # No two images are so near to each other that a depth is equally far from both.
    images = [i for n, i in enumerate(images) if n == 0 or (i - images[n - 1]) % 2]
    images = [-1000, -999, *images]  # images may be near to each other
    wanted = mutual_nearest(images, depths, slop)
    sent = [("image", i) for i in images] + [("depth", d) for d in depths]
    sent += [("info", i) for i in images]
    orders = [
        sorted(sent, key=lambda item: (item[1], item[0])),
        # Each topic in order, by up to 100 ms late.
        sorted(sent, key=lambda item: item[1] + {"image": 0, "depth": 90, "info": 30}[item[0]]),
        sorted(sent, key=lambda item: item[1] + {"image": 100, "depth": 0, "info": 30}[item[0]]),
    ]
    for order in orders:
        found = run(Synchroniser(slop=slop / 1000, queue_size=100), order)
        assert [image for image, _ in told(found)] == images
        assert {i: d for i, d in told(found) if d is not None} == wanted
        assert all(bool(t.missing) == (t.depth is None) for t in found)


def test_no_depth_twice():
    sent = [("info", 0), ("image", 0), ("depth", 10), ("image", 18), ("info", 18), ("depth", 500)]
    found = run(Synchroniser(slop=0.02), sent)
    assert told(found) == [(0, None), (18, 10)]
    assert found[0].missing == "the nearest depth image is nearer to another image"


def test_depth_a_little_later_does_not_wait_for_the_next_image():
    synchroniser = Synchroniser(slop=0.02)
    run(synchroniser, [("image", 0), ("info", 0), ("depth", 1), ("image", 33), ("info", 33)], False)
    assert told(run(synchroniser, [("depth", 34)], flush=False)) == [(33, 34)]


def test_images_without_partners_come_back_with_the_reason():
    alone = Synchroniser(wait=0.2)
    found = run(alone, [("image", t) for t in range(0, 1000, 100)], flush=False)
    assert [t for t, _ in told(found)] == [0, 100, 200, 300, 400, 500, 600]
    assert {t.missing for t in found} == {"no depth image has come"}
    assert len(list(alone.flush())) == 3

    far = run(Synchroniser(), [("image", 0), ("info", 0), ("depth", 50)])
    assert far[0].missing == "the nearest depth image is 0.050 s later than the image"
    late = run(Synchroniser(), [("image", 100), ("depth", 100), ("info", 40)])
    assert late[0].missing == "the nearest camera info is 0.060 s earlier than the image"
    none = run(Synchroniser(), [("image", 0), ("depth", 0)])
    assert none[0].missing == "no camera info has come"


def test_a_camera_info_without_a_time_is_always_right():
    synchroniser = Synchroniser()
    list(synchroniser.add("info", message(0)))
    sent = [("image", 0), ("depth", 0), ("image", 5000), ("depth", 5000)]
    found = run(synchroniser, sent, flush=False)
    assert told(found) == [(0, 0), (5000, 5000)] and found[1].info.stamp == 0


def test_memory_is_bounded():
    synchroniser = Synchroniser(queue_size=5)
    assert run(synchroniser, [("depth", t) for t in range(1000)], flush=False) == []
    assert len(synchroniser._messages["depth"]) == 5
    # Bursts of images too: nothing is lost, the oldest come back.
    found = run(Synchroniser(queue_size=5), [("image", t / 100) for t in range(50)], flush=False)
    assert len(found) == 45


def test_time_that_begins_anew():
    """A bag that is played again, or a clock that was set."""
    cycle = [(topic, t) for t in range(0, 300, 100) for topic in ("image", "info", "depth")]
    synchroniser = Synchroniser()
    first = run(synchroniser, [(topic, t + 60_000) for topic, t in cycle], flush=False)
    waiting = run(synchroniser, [("image", 60_500)], flush=False)
    again = run(synchroniser, cycle, flush=False)
    assert (len(first), len(waiting), len(again)) == (3, 0, 4)
    assert again[0].image.stamp == START + 60_500 * MS and again[0].missing
    assert told(again[1:]) == [(0, 0), (100, 100), (200, 200)]
    # One wrong stamp far ahead does not blind it for good.
    run(synchroniser, [("depth", 10**7)], flush=False)
    assert told(run(synchroniser, [(topic, t + 300) for topic, t in cycle], flush=False)) == [
        (300, 300),
        (400, 400),
        (500, 500),
    ]


@pytest.mark.parametrize("settings", [{"slop": -1}, {"slop": 1, "wait": 1}, {"queue_size": 0}])
def test_settings(settings):
    with pytest.raises(InputError):
        Synchroniser(**settings)
