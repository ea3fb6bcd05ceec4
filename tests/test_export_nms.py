"""Decoding and NMS of an exported file against brute force and against the eager pipeline.

The scenes are written into the pixels of the input (`pixel_maps.py`), so that the file itself, run
by ONNX Runtime, sees crowds of up to 2,000 points.
"""

import functools

import numpy as np
import onnxruntime
import pytest
import torch

from cpr.export import _trace
from cpr.export_graph import PointLocalizerGraph
from cpr.modeling.decoding import DecodeSettings, decode_points
from pixel_maps import LEVELS, PixelMaps, draw

pytestmark = pytest.mark.onnx
SIZE = (192, 192)
SETTINGS = {
    "score_thresh": 0.05,
    "nms_rule": "pseudo_box",
    "nms_size": 16.0,
    "nms_iou": 0.2,
    "nms_radius": 10.0,
}


@functools.cache
def exported(classes, candidates):
    """(session, model) whose graph takes `candidates` locations; all of them may come out."""
    settings = DecodeSettings(**SETTINGS, pre_nms_topk=candidates, max_dets=candidates)
    model = PixelMaps(classes, settings)
    graph = PointLocalizerGraph(model, input_format="BGR", max_candidates=candidates * classes)
    with torch.no_grad():
        data = _trace(graph.eval(), SIZE, 1, "dynamo", 18).SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), model


def scene(seed, count, classes):
    """(levels (N, K), points (N, 2)) of one of four kinds; all scores differ."""
    rng = np.random.default_rng(seed)
    kind = seed % 4
    height, width = SIZE
    if kind == 0:  # anywhere, also outside
        points = rng.uniform(-20, 20 + width, (count, 2))
    elif kind == 1:  # people that five references each predict, nearly at one place
        people = rng.uniform(0, [width, height], (-(-count // 5), 2))
        points = np.repeat(people, 5, axis=0)[:count] + rng.normal(0, 1.5, (count, 2))
    elif kind == 2:  # queues: chains of suppression
        start = rng.uniform(0, [40, height], (-(-count // 12), 2))
        points = np.repeat(start, 12, axis=0)[:count]
        points[:, 0] += 9.0 * (np.arange(count) % 12)
    else:  # many points at exactly one place
        places = rng.uniform(0, [width, height], (max(1, count // 20), 2))
        points = places[rng.integers(len(places), size=count)]
    levels = rng.permutation(LEVELS - 20_000)[: count * classes].reshape(count, classes) + 20_000
    return levels, points, rng


def brute_force(scores, points, labels, size, iou):
    """Greedy NMS as it is defined: from the best down, keep what overlaps no kept one."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        others = np.array([j for j in kept if labels[j] == labels[i]], int)
        gap = np.abs(points[others] - points[i])
        overlap = np.clip(size - gap, 0, None).prod(axis=1)
        if not (overlap / (2 * size**2 - overlap) > iou).any():
            kept.append(i)
    return np.array(kept, int)


def check(seed, count, classes, candidates):
    """Compares one scene; returns whether its NMS had settled (only then equality is promised)."""
    session, model = exported(classes, candidates)
    levels, points, rng = scene(seed, count, classes)
    image = draw(levels, points, *SIZE, rng)
    feed = {"images": image[None], "scale": np.ones((1, 2), np.float32)}
    found, scores, labels, valid, flags = (part[0] for part in session.run(None, feed))
    assert not flags & 2  # there is room for all of them
    if flags:
        return False
    number = int(valid)
    found, scores, labels = found[:number], scores[:number], labels[:number]

    x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    logits, places = model.predict_maps(x)
    eager = decode_points(
        *(logits[0], places[0]), image_size=SIZE, scale_xy=(1.0, 1.0), settings=model.decode
    )
    # In decreasing score all lists have one order, as no two scores are equal.
    np.testing.assert_allclose(scores, eager.scores.numpy(), atol=1e-6)
    np.testing.assert_allclose(found, eager.points.numpy(), atol=1e-3)
    np.testing.assert_array_equal(labels, eager.labels.numpy())

    every = 1 / (1 + np.exp(-logits[0].double().numpy()))
    best = np.argsort(-every.max(axis=1), kind="stable")[:candidates]
    rows, classes_of = np.nonzero(every[best] > model.decode.score_thresh)
    inside = np.clip(places[0].numpy()[best], 0, SIZE[::-1])[rows]
    weights = every[best][rows, classes_of]
    kept = brute_force(weights, inside, classes_of, SETTINGS["nms_size"], SETTINGS["nms_iou"])
    kept = kept[:candidates]
    np.testing.assert_allclose(scores, weights[kept], atol=1e-6)
    np.testing.assert_allclose(found, inside[kept], atol=1e-3)
    np.testing.assert_array_equal(labels, classes_of[kept])
    return True


@pytest.mark.parametrize("classes", [1, 3])
def test_some_scenes(classes):
    settled = [check(seed, 200, classes, 300) for seed in range(16)]
    assert all(settled)


def test_a_crowd_of_2000():
    settled = [check(seed, 2000, 1, 2000) for seed in (0, 1)]
    assert all(settled)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_1000_scenes():
    # 900 of 20 to 300 points with one or three classes, 100 crowds of 2,000.
    settled = [check(seed, 20 + 7 * (seed % 41), (1, 3)[seed // 4 % 2], 300) for seed in range(900)]
    settled += [check(seed, 2000, 1, 2000) for seed in range(900, 1000)]
    assert all(settled)
