"""Decoding against loops that follow the text of the official rule."""

import pytest
import torch

from cpr.modeling.decoding import DecodeSettings, decode_points, decode_tiles
from cpr.modeling.point_ops import points_conflict

SETTINGS = {
    "score_thresh": 0.3,
    "pre_nms_topk": 60,
    "nms_rule": "pseudo_box",
    "nms_size": 16.0,
    "nms_iou": 0.2,
    "nms_radius": 8.0,
    "max_dets": 20,
}


def _maps(count=90, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, num_classes, generator=generator) * 1.5
    points = torch.rand(count, 2, generator=generator) * 120 - 10
    return logits, points


def _decode(logits, points, image_size, scale_xy, settings):
    """The rule, one point after another."""
    scores = logits.sigmoid()
    order = sorted(range(len(scores)), key=lambda i: -scores[i].max().item())
    candidates = []
    for i in order[: settings.pre_nms_topk]:
        x = min(max(points[i, 0].item(), 0.0), image_size[1]) / scale_xy[0]
        y = min(max(points[i, 1].item(), 0.0), image_size[0]) / scale_xy[1]
        for label, score in enumerate(scores[i].tolist()):
            if score > settings.score_thresh:
                candidates.append((score, label, torch.tensor([x, y])))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for score, label, point in candidates:
        rivals = [other for _, rival, other in kept if rival == label]
        if not any(points_conflict(point, other, **settings.nms) for other in rivals):
            kept.append((score, label, point))
    return kept[: settings.max_dets]


@pytest.mark.parametrize("rule", ["pseudo_box", "radius", "none"])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rule_in_loops(rule, num_classes, seed):
    settings = DecodeSettings(**{**SETTINGS, "nms_rule": rule})
    logits, points = _maps(num_classes=num_classes, seed=seed)
    arguments = {"image_size": (90, 70), "scale_xy": (0.8, 0.75), "settings": settings}
    found = decode_points(logits, points, **arguments)
    expected = _decode(logits, points, **arguments)
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    torch.testing.assert_close(found.points, torch.stack([point for _, _, point in expected]))


def test_scores_of_the_cross_entropy_are_softmax_without_no_object():
    """Logits ln 6, ln 2, ln 2 of two classes and "no object": 0.6 and 0.2 are the scores."""
    settings = DecodeSettings(**{**SETTINGS, "class_loss": "cross_entropy", "nms_rule": "none"})
    logits = torch.tensor([[6.0, 2.0, 2.0], [1.0, 1.0, 8.0], [3.0, 6.0, 1.0]]).log()
    points = torch.tensor([[5.0, 5.0], [6.0, 6.0], [5.0, 6.0]])
    found = decode_points(
        logits, points, image_size=(64, 64), scale_xy=(1.0, 1.0), settings=settings
    )
    assert found.scores.tolist() == pytest.approx([0.6, 0.6])
    assert found.labels.tolist() == [0, 1]
    assert found.points.tolist() == [[5.0, 5.0], [5.0, 6.0]]


def test_nothing_above_the_threshold():
    logits, points = _maps()
    found = decode_points(
        logits - 100,
        points,
        image_size=(90, 70),
        scale_xy=(1.0, 1.0),
        settings=DecodeSettings(**SETTINGS),
    )
    assert found.points.shape == (0, 2)
    assert found.scores.shape == found.labels.shape == (0,)


def test_tiles_count_a_point_of_the_overlap_once():
    """Two tiles see the same object at (50, 10); each has another one of its own."""
    logit = torch.tensor([[2.0], [3.0]])
    points = [torch.tensor([[50.0, 10.0], [5.0, 10.0]]), torch.tensor([[10.5, 10.0], [40.0, 9.0]])]
    found, counts = decode_tiles(
        [logit, logit + 0.5],
        points,
        torch.tensor([[0, 0], [40, 0]]),
        tile_sizes=[(32, 64)] * 2,
        scale_xy=(1.0, 1.0),
        settings=DecodeSettings(**SETTINGS),
    )
    assert counts == [2, 2]
    assert found.points.tolist() == [[80.0, 9.0], [5.0, 10.0], [50.5, 10.0]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score_thresh", 1.0),
        ("pre_nms_topk", 0),
        ("nms_rule", "soft"),
        ("nms_size", 0.0),
        ("nms_iou", 1.0),
        ("nms_radius", -1.0),
        ("max_dets", 0),
        ("class_loss", "hinge"),
    ],
)
def test_bad_settings_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"MODEL.P2PNET.{key.upper()}"):
        DecodeSettings(**{**SETTINGS, key: value})
