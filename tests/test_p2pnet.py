"""P2PNet as a Detectron2 meta-architecture: odd batches, gradients, units, no host syncs."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

import cpr.modeling  # noqa: F401 (registers the meta-architectures)
import host_syncs
from cpr.modeling.decoding import decode_points
from cpr.modeling.inputs import batch_targets
from tiny_models import point_input, tiny_cfg

ONE = {"points": [[20.0, 30.0], [60.0, 40.0]], "labels": [0, 1]}
# Head, assignment, losses and decoding of the original P2PNet (ICCV 2021).
ORIGINAL = {
    "POINTS_PER_LOCATION": 4,
    "OFFSET_SCALE": 100.0,
    "ASSIGNER": "hungarian",
    "TOPK": 1,
    "COST_RULE": "probability",
    "COST_CLASS": 1.0,
    "COST_DISTANCE": "l2",
    "COST_POINT": 0.05,
    "CLASS_LOSS": "cross_entropy",
    "POINT_LOSS": "l2",
    "POINT_LOSS_WEIGHT": 2e-4,
    "NMS_RULE": "none",
}
ASSIGNERS = pytest.mark.parametrize("assigner", ["topk", "hungarian"])


def _model(*, num_classes=2, level="p2", **node):
    """A tiny P2PNet; `node` holds keys of MODEL.P2PNET."""
    cfg = tiny_cfg("P2PNet", num_classes=num_classes, level=level)
    for key, value in node.items():
        cfg.MODEL.P2PNET[key] = value
    torch.manual_seed(0)
    return build_model(cfg)


def _total(losses):
    return sum(losses.values())


@pytest.mark.parametrize(
    "node",
    [
        pytest.param({}, id="default"),
        pytest.param({"POINTS_PER_LOCATION": 4}, id="four a cell"),
        pytest.param({"SHARED_TOWER": True, "NORM": "BN"}, id="slim head"),
        pytest.param({"NUM_CONVS": 0}, id="no tower"),
        pytest.param({"NORM": "", "CONV_DIM": 20}, id="no norm"),
        pytest.param({"ASSIGNER": "hungarian", "REFERENCE_OFFSET": 0.0}, id="official"),
        pytest.param({"NMS_RULE": "radius"}, id="radius"),
        pytest.param(ORIGINAL, id="original"),
        pytest.param({"CLASS_LOSS": "cross_entropy"}, id="cross-entropy"),
        pytest.param({"POINT_LOSS": "l2"}, id="L2"),
        pytest.param({"TOPK": 1, "NMS_RULE": "none"}, id="no NMS"),
        pytest.param({"COST_RULE": "probability", "COST_DISTANCE": "l2"}, id="cost"),
    ],
)
@pytest.mark.parametrize("level", ["p2", "p3"])
def test_every_setting_trains_and_detects(node, level):
    model = _model(level=level, SCORE_THRESH=0.0, **node)
    inputs = [point_input(**ONE), point_input([[5.0, 5.0]], [1], seed=1, size=(32, 64))]
    _total(model(inputs)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        first = model(inputs)[0]["instances"]
    assert len(first) > 0
    assert first.pred_points.shape == (len(first), 2)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param({"ASSIGNER": "topk"}, id="topk"),
        pytest.param({"ASSIGNER": "hungarian"}, id="hungarian"),
        pytest.param(ORIGINAL, id="original"),
    ],
)
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="empty image"),
        pytest.param([[-500.0, -500.0]], id="point outside the image"),
        pytest.param([[0.0, 0.0], [95.9, 63.9]], id="corners"),
        pytest.param([[20.0, 20.0]] * 3, id="three at one place"),
    ],
)
def test_odd_images_train(node, num_classes, points):
    model = _model(num_classes=num_classes, **node)
    losses = model([point_input(points, [0] * len(points))])
    assert all(torch.isfinite(loss) for loss in losses.values())
    _total(losses).backward()
    assert (losses["loss_point"] == 0) == (not points)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("term", ["loss_cls", "loss_point"])
def test_every_loss_term_moves_its_parameters(term):
    model = _model()
    model([point_input(**ONE)])[term].backward()
    moved = {
        name: parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in model.named_parameters()
    }
    assert moved["head.cls_score.weight"] == (term == "loss_cls")
    assert moved["head.cls_tower.0.weight"] == (term == "loss_cls")
    assert moved["head.point_offset.weight"] == (term == "loss_point")
    assert moved["head.point_tower.0.weight"] == (term == "loss_point")
    assert moved["backbone.output_conv.weight"]


@ASSIGNERS
@pytest.mark.parametrize("normalizer", ["global", "local"])
def test_batch_is_the_sum_of_its_images_over_the_common_positives(assigner, normalizer):
    model = _model(ASSIGNER=assigner, LOSS_NORMALIZER=normalizer)
    images = [
        point_input([[20.0, 30.0], [60.0, 40.0], [70.0, 20.0]], [0, 1, 1], seed=1),
        point_input([[30.0, 30.0]], [0], seed=2),
    ]
    empty = point_input([], [], seed=3)
    first, second = (model([image]) for image in images)
    for name, value in model(images).items():
        expected = (15 * first[name] + 5 * second[name]) / 20
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    # An image without objects is background; alone it is divided by 1.
    with_empty, alone = model([images[1], empty]), model([empty])
    for name, value in with_empty.items():
        expected = second[name] + alone[name] / 5
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


class _FlatBackbone(nn.Module):
    """A backbone without any view of its surroundings: stride 4, so padding cannot matter."""

    size_divisibility = 32
    padding_constraints: dict = {}

    def __init__(self, shape):
        super().__init__()
        self.conv = nn.Conv2d(3, shape.channels, 4, stride=4)
        self.shape = shape

    def output_shape(self):
        return {"p2": self.shape}

    def forward(self, images):
        return {"p2": self.conv(images)}


def test_padding_of_the_batch_does_not_change_an_image():
    """References beyond an image's own padded size neither train nor detect."""
    model = _model(NUM_CONVS=0)
    model.backbone = _FlatBackbone(model.backbone.output_shape()["p2"])
    # Kernels of 1x1 keep the canvas from reaching into the image.
    for conv in (model.head.cls_score, model.head.point_offset):
        conv.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    small = point_input(**ONE, size=(50, 90))
    big = point_input([[100.0, 100.0]], [1], size=(128, 160), seed=5)
    alone, other, together = model([small]), model([big]), model([small, big])
    for name, value in together.items():
        torch.testing.assert_close(value, (10 * alone[name] + 5 * other[name]) / 15)
    model.eval()
    with torch.no_grad():
        expected, found = (model(x)[0]["instances"] for x in ([small], [small, big]))
    torch.testing.assert_close(found.pred_points, expected.pred_points)
    torch.testing.assert_close(found.scores, expected.scores)


def test_regions_are_left_out_of_the_background():
    everything = [[0.0, 0.0, 96.0, 64.0]]
    empty, ignored = point_input([], []), point_input([], [], regions=everything)
    with_objects = point_input(**ONE, regions=everything)
    model = _model()
    assert model([ignored])["loss_cls"] == 0
    assert model([empty])["loss_cls"] > 0
    # Positives count wherever they are, and only they are left here.
    only = model([with_objects])["loss_cls"]
    assert 0 < only < model([point_input(**ONE)])["loss_cls"]
    model.ignore_as_background = True
    torch.testing.assert_close(model([ignored])["loss_cls"], model([empty])["loss_cls"])


def test_boxes_do_not_matter_and_labels_do():
    model = _model()
    plain, swapped = point_input(**ONE), point_input(ONE["points"], [1, 0])
    assert model([plain])["loss_cls"] != model([swapped])["loss_cls"]


def test_detection_is_the_decoding_of_the_maps_in_original_pixels():
    """Planted maps: the reference of cell (7, 5), stride 4, moved by half a cell to the right."""
    model = _model(NUM_CONVS=0).eval()
    nn.init.zeros_(model.head.point_offset.weight)
    model.head.point_offset.bias.data = torch.tensor([0.5, 0.0])
    cls_maps = torch.full((1, 2, 16, 24), -8.0)
    cls_maps[0, 1, 7, 5] = 3.0
    model.head.cls_score.forward = lambda feature: cls_maps
    with torch.no_grad():
        result = model([point_input([], [], original=(128, 288))])[0]["instances"]
    assert isinstance(result, Instances)
    assert result.image_size == (128, 288)
    assert result.pred_points.tolist() == [[(5.5 + 0.5) * 4 * 3, 7.5 * 4 * 2]]
    assert result.scores.tolist() == pytest.approx([torch.tensor(3.0).sigmoid().item()])
    assert result.pred_classes.tolist() == [1]


def test_points_in_the_padding_are_dropped_or_moved_onto_the_border():
    """An image of 70 x 50 px is padded to 96 x 64: the places there are no detections of it."""
    found = {}
    for padding_points in ("drop", "clamp"):
        model = _model(
            SCORE_THRESH=0.0, NMS_SIZE=1.0, MAX_DETS=10_000, PADDING_POINTS=padding_points
        ).eval()
        with torch.no_grad():
            found[padding_points] = model([point_input([], [], size=(50, 70))])[0]["instances"]
    on_border = {
        name: ((x.pred_points[:, 0] == 70) | (x.pred_points[:, 1] == 50)).sum()
        for name, x in found.items()
    }
    corner = torch.tensor([70.0, 50.0])
    assert on_border["clamp"] > 10
    assert on_border["drop"] == 0
    assert (found["drop"].pred_points <= corner).all()
    assert len(found["drop"]) > 50


@pytest.mark.parametrize("q", [1, 4])
def test_predict_maps_is_what_detection_decodes(q):
    model = _model(POINTS_PER_LOCATION=q, SCORE_THRESH=0.0).eval()
    inputs = point_input(**ONE, original=(128, 192))
    with torch.no_grad():
        images = (inputs["image"][None] - model.pixel_mean) / model.pixel_std
        logits, points = model.predict_maps(images)
        expected = decode_points(
            logits[0], points[0], image_size=(64, 96), scale_xy=(0.5, 0.5), settings=model.decode
        )
        found = model([inputs])[0]["instances"]
    assert logits.shape == (1, 16 * 24 * q, 2)
    assert points.shape == (1, 16 * 24 * q, 2)
    torch.testing.assert_close(found.pred_points, expected.points)
    torch.testing.assert_close(found.scores, expected.scores)


def test_cost_is_without_gradient_and_targets_use_predicted_points():
    """Moving all predictions by a cell moves the positives by a cell the other way."""
    model = _model(num_classes=1, NUM_CONVS=0, TOPK=1)
    nn.init.zeros_(model.head.point_offset.weight)
    inputs = [point_input([[42.0, 30.0]], [0])]
    targets = batch_targets(inputs, model.device)
    nn.init.zeros_(model.head.cls_score.weight)
    places = []
    for shift in (0.0, 1.0):
        model.head.point_offset.bias.data = torch.tensor([shift, 0.0])
        logits, points = model.predict_maps(torch.zeros(1, 3, 64, 96))
        grid = model.reference_grid((64, 96))
        valid = torch.ones(1, grid.num_points, dtype=torch.bool)
        assigned = model.assign(logits, points, valid, grid, targets)
        places.append((assigned[0] >= 0).nonzero().item())
    assert places == [7 * 24 + 10, 7 * 24 + 9]


def test_initial_scores_are_the_prior():
    model = _model(PRIOR_PROB=0.01).eval()
    assert model.head.cls_score.bias.tolist() == pytest.approx([-4.59512] * 2, abs=1e-5)
    with torch.no_grad():
        logits, _ = model.predict_maps(torch.zeros(1, 3, 64, 64))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_initial_scores_of_the_softmax_add_up_to_the_prior(num_classes):
    model = _model(
        num_classes=num_classes, PRIOR_PROB=0.06, CLASS_LOSS="cross_entropy", POINTS_PER_LOCATION=4
    )
    assert model.head.cls_score.out_channels == 4 * (num_classes + 1)
    nn.init.zeros_(model.head.cls_score.weight)
    with torch.no_grad():
        logits, _ = model.predict_maps(torch.zeros(1, 3, 64, 64))
    assert logits.shape == (1, 16 * 16 * 4, num_classes + 1)
    scores = logits.softmax(dim=-1)
    torch.testing.assert_close(
        scores[..., :-1], torch.full_like(scores[..., :-1], 0.06 / num_classes)
    )


@pytest.mark.parametrize(("scale", "moved"), [(0.0, 2.0), (100.0, 50.0)])
def test_outputs_are_in_cells_or_in_units_of_the_offset_scale(scale, moved):
    """An output of 0.5 moves a point by half a cell of 4 px, or by half of the scale."""
    model = _model(OFFSET_SCALE=scale)
    nn.init.zeros_(model.head.point_offset.weight)
    model.head.point_offset.bias.data = torch.tensor([0.5, -0.5])
    with torch.no_grad():
        _, points = model.predict_maps(torch.zeros(1, 3, 64, 96))
    references = model.reference_grid((64, 96)).points(points.device)
    torch.testing.assert_close(
        points[0] - references, torch.tensor([[moved, -moved]]).expand(384, 2)
    )


def test_no_object_is_no_class_of_a_detection():
    """Planted maps: one reference of four sees class 1, another one is sure of nothing."""
    model = _model(NUM_CONVS=0, **ORIGINAL).eval()
    nn.init.zeros_(model.head.point_offset.weight)
    nn.init.zeros_(model.head.point_offset.bias)
    maps = torch.zeros(1, 4, 3, 16, 24)
    maps[:, :, 2] = 9.0
    maps[0, 3, :, 7, 5] = torch.tensor([2.0, 7.0, 1.0]).log()
    model.head.cls_score.forward = lambda feature: maps.flatten(1, 2)
    with torch.no_grad():
        found = model([point_input([], [])])[0]["instances"]
    # The last of the 2 x 2 references of cell (7, 5): three quarters of it, right and down.
    assert found.pred_points.tolist() == [[5.75 * 4, 7.75 * 4]] * 2
    assert found.scores.tolist() == pytest.approx([0.7, 0.2])
    assert found.pred_classes.tolist() == [1, 0]


def test_official_head_size():
    """Parameters of the released COCO model's head: two towers of four convs, 80 classes."""
    model = _model(num_classes=80, NUM_CONVS=4, CONV_DIM=256)
    model.head.cls_tower[0] = model.head.cls_tower[1]
    model.head.point_tower[0] = model.head.point_tower[1]
    towers = 2 * 4 * (256 * 256 * 9 + 2 * 256)
    outputs = 82 * (256 * 9 + 1)
    assert towers + outputs == 4_911_698
    counted = sum(p.numel() for p in model.head.cls_tower[1].parameters()) * 8
    counted += sum(p.numel() for p in model.head.cls_score.parameters())
    counted += sum(p.numel() for p in model.head.point_offset.parameters())
    assert counted == 4_911_698


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("IN_FEATURE", "p5"),
        ("NUM_CLASSES", 0),
        ("NUM_CONVS", -1),
        ("CONV_DIM", 40),
        ("NORM", "LN"),
        ("PRIOR_PROB", 1.0),
        ("POINTS_PER_LOCATION", 3),
        ("REFERENCE_OFFSET", 4.0),
        ("ASSIGNER", "greedy"),
        ("TOPK", 0),
        ("TOPK", 1000),
        ("CANDIDATE_RADIUS", 0),
        ("COST_POINT", -1.0),
        ("FOCAL_GAMMA", 0.5),
        ("SMOOTH_L1_BETA", -1.0),
        ("POINT_LOSS_WEIGHT", -1.0),
        ("OFFSET_SCALE", -1.0),
        ("COST_RULE", "giou"),
        ("COST_DISTANCE", "l3"),
        ("CLASS_LOSS", "hinge"),
        ("NO_OBJECT_WEIGHT", 0.0),
        ("POINT_LOSS", "l3"),
        ("LOSS_NORMALIZER", "mean"),
        ("NMS_RULE", "soft"),
        ("SCORE_THRESH", 1.5),
    ],
)
def test_meaningless_settings_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"MODEL.P2PNET.{key}"):
        _model(**{key: value})


def test_training_forward_never_waits_for_the_device(monkeypatch):
    """No call that copies a tensor to the host; on a GPU `set_sync_debug_mode` shows the same."""
    model = _model()
    region = [[0.0, 0.0, 20.0, 20.0]]
    inputs = [point_input(**ONE, regions=region), point_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused(monkeypatch):
        losses = model(inputs)
    assert torch.isfinite(_total(losses))
    assert model.diagnostics["p2p/positives_per_object"] == 5
    assert 0 < model.diagnostics["p2p/matched_distance"] < 20


@pytest.mark.gpu
def test_training_forward_never_syncs_on_a_gpu():
    host_syncs.need_gpu()
    model = _model().cuda()
    region = [[0.0, 0.0, 20.0, 20.0]]
    inputs = [point_input(**ONE, regions=region), point_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused_on_gpu():
        model(inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_losses_are_float32_under_autocast(dtype):
    model = _model()
    with torch.autocast("cpu", dtype=dtype):
        losses = model([point_input(**ONE)])
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    plain = model([point_input(**ONE)])
    assert losses["loss_cls"].item() == pytest.approx(plain["loss_cls"].item(), rel=0.1)


def _blobs(count):
    """Scenes of two bright blobs, 10 px wide, on grey."""
    generator = torch.Generator().manual_seed(0)
    height, width = 64, 96
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    scenes = []
    for seed in range(count):
        centres = torch.tensor([[24.0, 32.0], [68.0, 30.0]])
        centres = centres + torch.randint(-8, 9, (2, 2), generator=generator)
        item = point_input(centres.tolist(), [0, 0], seed=seed)
        image = torch.full((height, width), 60.0)
        for cx, cy in centres.tolist():
            image[((x - cx) ** 2 + (y - cy) ** 2) < 25] = 220.0
        item["image"] = image.to(torch.uint8).expand(3, -1, -1).contiguous()
        scenes.append(item)
    return scenes


def _train(model, scenes, steps):
    """Two scenes a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.zero_grad()
        _total(model([scenes[(2 * step + i) % len(scenes)] for i in range(2)])).backward()
        optimizer.step()


def _assert_one_point_per_object(model, scenes, tolerance):
    """tolerance: largest distance of a point from its object, px."""
    model.eval()
    with torch.no_grad():
        results = [x["instances"] for x in model(scenes)]
    for item, result in zip(scenes, results, strict=True):
        assert len(result) == 2
        distance = torch.cdist(item["instances"].gt_points, result.pred_points).min(dim=1).values
        assert distance.max() < tolerance


def test_it_learns_to_point_at_drawn_blobs():
    model = _model(num_classes=1, NMS_RULE="radius", SCORE_THRESH=0.3)
    scenes = _blobs(12)
    _train(model, scenes, steps=40)
    _assert_one_point_per_object(model, scenes, tolerance=2.5)


def test_the_original_learns_to_give_one_point_per_object_without_nms():
    model = _model(num_classes=1, level="p3", SCORE_THRESH=0.5, **ORIGINAL)
    scenes = _blobs(2)
    _train(model, scenes, steps=150)
    _assert_one_point_per_object(model, scenes, tolerance=3.0)
