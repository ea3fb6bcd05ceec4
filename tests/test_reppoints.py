"""RepPoints as a Detectron2 meta-architecture: deformable reads, training, units, odd batches."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Instances, pairwise_iou
from torch import nn
from torchvision.ops import nms

import cpr.modeling  # noqa: F401 (registers the meta-architectures)
import host_syncs
from cpr.modeling.box_decoding import BoxDecodeSettings, decode_boxes
from cpr.modeling.point_sets import BACKGROUND
from cpr.modeling.reppoints import Predictions
from cpr.modeling.reppoints_head import PointConv
from cpr_deploy.files import InputError
from tiny_models import box_input, tiny_cfg

CHANNELS = 32
ONE = {"boxes": [[8.0, 20.0, 32.0, 40.0], [50.0, 10.0, 90.0, 55.0]], "labels": [0, 1]}


@BACKBONE_REGISTRY.register()
class TinyPyramid(Backbone):
    """Levels p2 to p4 by strided convs."""

    size_divisibility = 32

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 4, stride=4), nn.GroupNorm(8, CHANNELS), nn.ReLU()
        )
        self.body = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.GroupNorm(8, CHANNELS), nn.ReLU()
        )
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1),
                nn.GroupNorm(8, CHANNELS),
                nn.ReLU(),
            )
            for _ in range(2)
        )

    def output_shape(self):
        return {f"p{level}": ShapeSpec(channels=CHANNELS, stride=2**level) for level in range(2, 5)}

    def forward(self, images):
        levels = [self.body(self.stem(images))]
        for step in self.steps:
            levels.append(step(levels[-1]))
        return {f"p{2 + i}": level for i, level in enumerate(levels)}


def _model(*, num_classes=2, levels=("p2", "p3", "p4"), backbone="TinyPyramid", **node):
    """A tiny RepPoints; `node` holds keys of MODEL.REPPOINTS."""
    cfg = tiny_cfg("RepPoints", num_classes=num_classes)
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.REPPOINTS.IN_FEATURES = list(levels)
    for key, value in node.items():
        cfg.MODEL.REPPOINTS[key] = value
    torch.manual_seed(0)
    return build_model(cfg)


def _total(losses):
    return sum(losses.values())


# --- deformable reads ---


def _conv_and_feature(num_points=9):
    torch.manual_seed(0)
    return PointConv(4, 5, num_points), torch.randn(2, 4, 7, 9)


def _points(conv, dx=0.0, dy=0.0):
    """The grid of an ordinary conv at every cell, moved by (dx, dy) cells; x before y."""
    side = conv.kernel_size[0]
    reach = range(-(side // 2), side // 2 + 1)
    points = torch.tensor([[x + dx, y + dy] for y in reach for x in reach])
    return points[None, :, :, None, None].expand(2, -1, -1, 7, 9)


@pytest.mark.parametrize("num_points", [9, 25])
def test_on_the_grid_it_is_an_ordinary_conv(num_points):
    conv, feature = _conv_and_feature(num_points)
    expected = F.conv2d(feature, conv.weight, padding=conv.padding)
    torch.testing.assert_close(conv(feature, _points(conv)), expected)


def test_points_at_the_centre_all_read_the_cell_itself():
    conv, feature = _conv_and_feature()
    expected = torch.einsum("bchw,dc->bdhw", feature, conv.weight.sum(dim=(2, 3)))
    torch.testing.assert_close(conv(feature, torch.zeros(2, 9, 2, 7, 9)), expected)


@pytest.mark.parametrize("dx, dy", [(1, 0), (0, 1), (-2, 1)])
def test_moved_points_read_the_moved_feature(dx, dy):
    conv, feature = _conv_and_feature()
    # What lies at (x + dx, y + dy), 0 outside.
    padded = F.pad(feature, (3, 3, 3, 3))
    moved = padded[:, :, 2 + dy : 11 + dy, 2 + dx : 13 + dx]
    expected = F.conv2d(moved, conv.weight)
    torch.testing.assert_close(conv(feature, _points(conv, dx, dy)), expected)


def test_one_point_moves_alone_and_reads_between_cells():
    """A ramp x + 10 y, read by the kernel's cell in row 0, column 2 only."""
    conv = PointConv(1, 1, 9)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, 2] = 1.0
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    ramp = (x + 10 * y)[None, None].expand(2, -1, -1, -1)
    points = torch.full((2, 9, 2, 7, 9), 50.0)
    points[:, 2, 0], points[:, 2, 1] = 0.25, -0.5
    found = conv(ramp, points)[0, 0, 3, 4]
    assert found.item() == pytest.approx(4.25 + 10 * 2.5)


def test_both_ways_of_reading_are_one():
    """Values and gradients, with points inside, between and outside the cells."""
    conv, feature = _conv_and_feature()
    points = 3 * torch.randn(2, 9, 2, 7, 9)
    results = []
    for way in (conv.deform, conv.sample_and_mix):
        inputs = [feature.clone().requires_grad_(), points.clone().requires_grad_()]
        output = way(*inputs)
        gradients = torch.autograd.grad(output.square().sum(), [*inputs, conv.weight])
        results.append([output, *gradients])
    for deformed, sampled in zip(*results, strict=True):
        torch.testing.assert_close(sampled, deformed, rtol=1e-4, atol=1e-4)


# --- training ---


@pytest.mark.parametrize(
    "node",
    [
        pytest.param({}, id="default"),
        pytest.param({"TRANSFORM": "minmax"}, id="minmax"),
        pytest.param({"TRANSFORM": "partial_minmax"}, id="partial minmax"),
        pytest.param({"NUM_POINTS": 25, "POINT_CONV_DIM": 7}, id="25 points"),
        pytest.param({"NUM_CONVS": 0}, id="no tower"),
        pytest.param({"NORM": "", "CONV_DIM": 20}, id="no norm"),
        pytest.param({"INIT_POSITIVES": 3}, id="three positives"),
    ],
)
@pytest.mark.parametrize("levels", [("p2", "p3", "p4"), ("p3",)])
def test_every_setting_trains_all_parameters_and_detects(node, levels):
    model = _model(levels=levels, SCORE_THRESH=0.0, **node)
    # Of the pyramid only what leads to the levels that are read.
    unread = "backbone.steps.1." if levels == ("p3",) else "none"
    inputs = [box_input(**ONE), box_input([[5.0, 5.0, 20.0, 15.0]], [1], seed=1, size=(32, 64))]
    losses = model(inputs)
    assert set(losses) == {"loss_cls", "loss_box_init", "loss_box_refine"}
    _total(losses).backward()
    for name, parameter in model.named_parameters():
        if not name.startswith(unread):
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    model.eval()
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
    assert len(found) == len(found.pred_boxes) == len(found.scores) > 0
    assert (found.scores.diff() <= 0).all()


def test_single_level_backbone_of_the_point_networks():
    model = _model(levels=("p2",), backbone="build_resnet_fpn_single_level_backbone")
    assert torch.isfinite(_total(model([box_input(**ONE)])))


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param([], id="empty image"),
        pytest.param([[-500.0, -500.0, -480.0, -480.0]], id="outside the image"),
        pytest.param([[-8.0, -8.0, 8.0, 8.0], [88.0, 56.0, 104.0, 72.0]], id="corners"),
        pytest.param([[20.0, 20.0, 40.0, 40.0]] * 3, id="three at one place"),
        pytest.param([[21.0, 21.0, 21.5, 21.5]], id="half a pixel"),
        pytest.param([[0.0, 0.0, 96.0, 64.0]], id="the whole image"),
    ],
)
def test_odd_images_train(num_classes, boxes):
    model = _model(num_classes=num_classes)
    losses = model([box_input(boxes, [0] * len(boxes))])
    assert all(torch.isfinite(loss) for loss in losses.values())
    _total(losses).backward()
    assert (losses["loss_box_init"] == 0) == (not boxes)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    "term, moved, still",
    [
        ("loss_cls", "cls_tower.0 cls_conv cls_score init_conv", "refine_conv refine_offset"),
        (
            "loss_box_init",
            "point_tower.0 init_conv init_offset",
            "refine_conv cls_conv cls_tower.0",
        ),
        ("loss_box_refine", "point_tower.0 refine_conv refine_offset", "cls_conv cls_tower.0"),
    ],
)
def test_every_loss_term_moves_its_parameters(term, moved, still):
    model = _model()
    model([box_input(**ONE)])[term].backward()
    head = model.head
    for names, expected in ((moved, True), (still, False)):
        for name in names.split():
            grad = head.get_submodule(name).weight.grad
            assert (grad is not None and bool(grad.any())) == expected, name


def test_gradient_of_stage_two_to_the_points_of_stage_one_is_scaled():
    grads = {}
    for factor in (0.0, 0.1, 0.3):
        model = _model(GRADIENT_MUL=factor)
        losses = model([box_input(**ONE)])
        (losses["loss_cls"] + losses["loss_box_refine"]).backward()
        grads[factor] = model.head.init_offset.weight.grad
    assert not grads[0.0].any() and grads[0.1].any()
    torch.testing.assert_close(3 * grads[0.1], grads[0.3])


def test_gradient_of_the_learned_spread_is_scaled():
    grads = {}
    for factor in (0.01, 1.0):
        model = _model(MOMENT_MUL=factor)
        _total(model([box_input(**ONE)])).backward()
        grads[factor] = model.head.log_spread.grad
    assert grads[0.01].any()
    torch.testing.assert_close(100 * grads[0.01], grads[1.0])


def test_losses_are_those_of_the_assigned_locations():
    """Every term again with plain loops, from the predictions and the assignment."""
    model = _model()
    inputs = [box_input(**ONE), box_input([[30.0, 10.0, 60.0, 30.0]], [1], seed=1)]
    for parameter in (model.head.init_offset.weight, model.head.refine_offset.weight):
        parameter.data.mul_(200)  # boxes that overlap objects
    images = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs])
    features = [model.backbone(images)[name] for name in model.in_features]
    locations = model.locations(
        [x.shape[-2:] for x in features],
        type("Images", (), {"image_sizes": [(64, 96), (64, 96)]}),
    )
    predictions = model.predict(features, locations)
    boxes = torch.cat([x["instances"].gt_boxes.tensor for x in inputs])
    labels = torch.cat([x["instances"].gt_classes for x in inputs])
    first, second = model.assign(predictions.init_boxes, locations, boxes, [2, 1])
    assert (first[0] < 2).all() and set(first[1].tolist()) == {BACKGROUND, 2}

    def smooth_l1(error, beta=1 / 9):
        return error**2 / 2 / beta if error < beta else error - beta / 2

    expected = {"loss_cls": 0.0, "loss_box_init": 0.0, "loss_box_refine": 0.0}
    for name, weight, found, rows in (
        ("loss_box_init", 0.5, predictions.init_boxes, first),
        ("loss_box_refine", 1.0, predictions.refine_boxes, second),
    ):
        places = (rows >= 0).nonzero().tolist()
        for b, i in places:
            errors = (found[b, i] - boxes[rows[b, i]]).abs() / (4 * locations.strides[i])
            expected[name] += weight * sum(map(smooth_l1, errors.tolist())) / len(places)
    scores = predictions.logits.sigmoid().double()
    positives = (second >= 0).sum().item()
    for b, i in (second >= BACKGROUND).nonzero().tolist():
        for k in range(2):
            p = scores[b, i, k].item()
            hit = second[b, i] >= 0 and labels[second[b, i]] == k
            p, alpha = (p, 0.25) if hit else (1 - p, 0.75)
            expected["loss_cls"] -= alpha * (1 - p) ** 2 * torch.tensor(p).log().item() / positives
    losses = model(inputs)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("normalizer", ["global", "local"])
def test_an_image_without_objects_is_background(normalizer):
    model = _model(LOSS_NORMALIZER=normalizer)
    image, empty = box_input(**ONE), box_input([], [], seed=3)
    alone, background, both = model([image]), model([empty]), model([image, empty])
    # At the start each object has one positive, the location that overlaps it most.
    model([image])
    positives = 2 * model.diagnostics["reppoints/positives_per_object"]
    torch.testing.assert_close(
        both["loss_cls"], alone["loss_cls"] + background["loss_cls"] / positives
    )
    for name in ("loss_box_init", "loss_box_refine"):
        torch.testing.assert_close(both[name], alone[name])
        assert background[name] == 0


def test_padding_of_the_batch_neither_trains_nor_detects():
    """Predictions beyond an image's own padded size are of no consequence."""
    model = _model(SCORE_THRESH=0.0)
    small, big = box_input(**ONE, size=(50, 90)), box_input([], [], size=(128, 160), seed=5)
    images = type("Images", (), {"image_sizes": [(50, 90), (128, 160)]})
    locations = model.locations([(32, 40), (16, 20), (8, 10)], images)
    # 64 x 96 px in cells of 4, 8 and 16 px.
    assert locations.valid.sum(dim=1).tolist() == [16 * 24 + 8 * 12 + 4 * 6, len(locations.points)]
    assert locations.points[locations.valid[0]].amax(dim=0).tolist() == [94, 62]

    predict, whole = model.predict, torch.tensor([8.0, 20.0, 32.0, 40.0])
    found = []
    for logit in (0.0, 9.0):

        def spoiled(features, locations, logit=logit):
            logits, *boxes = predict(features, locations)
            outside = ~locations.valid[..., None]
            boxes = (torch.where(outside, whole, x) for x in boxes)
            return Predictions(torch.where(outside, logit, logits), *boxes)

        model.predict = spoiled
        losses = model.train()([small, big])
        with torch.no_grad():
            results = [x["instances"] for x in model.eval()([small, big])]
        found.append([*losses.values(), *(x.pred_boxes.tensor for x in results)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_regions_are_left_out_of_the_background():
    everything = [[0.0, 0.0, 96.0, 64.0]]
    empty, ignored = box_input([], []), box_input([], [], regions=everything)
    model = _model()
    assert model([ignored])["loss_cls"] == 0
    assert model([empty])["loss_cls"] > 0
    # Positives count wherever they are, and only they are left here.
    only = model([box_input(**ONE, regions=everything)])["loss_cls"]
    assert 0 < only < model([box_input(**ONE)])["loss_cls"]
    # A region belongs to its image.
    torch.testing.assert_close(model([ignored, empty])["loss_cls"], model([empty])["loss_cls"])
    model.ignore_as_background = True
    torch.testing.assert_close(model([ignored])["loss_cls"], model([empty])["loss_cls"])


def test_initial_scores_are_the_prior():
    model = _model(PRIOR_PROB=0.01, SCORE_THRESH=0.0, PRE_NMS_TOPK=9).eval()
    with torch.no_grad():
        scores = model([box_input([], [])])[0]["instances"].scores
    assert scores.mean().item() == pytest.approx(0.01, abs=0.005)


def test_losses_are_float32_under_autocast():
    model = _model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([box_input(**ONE)])
        _total(losses).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    plain = model([box_input(**ONE)])
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(plain[name].item(), rel=0.1)


def test_training_forward_never_waits_for_the_device(monkeypatch):
    """No call that copies a tensor to the host."""
    model = _model()
    region = [[0.0, 0.0, 20.0, 20.0]]
    inputs = [box_input(**ONE, regions=region), box_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused(monkeypatch):
        losses = model(inputs)
    assert torch.isfinite(_total(losses))
    assert model.diagnostics["reppoints/positives_per_object"] >= 1
    assert 0 < model.diagnostics["reppoints/init_iou"] < 0.5
    assert 0 < model.diagnostics["reppoints/refine_iou"] < 0.5


@pytest.mark.gpu
def test_training_forward_never_syncs_on_a_gpu():
    host_syncs.need_gpu()
    model = _model().cuda()
    inputs = [box_input(**ONE, regions=[[0.0, 0.0, 20.0, 20.0]]), box_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused_on_gpu():
        model(inputs)


# --- inference ---


def _decode(logits, boxes, *, levels=None, size=(100, 200), **changes):
    settings = {
        "score_thresh": 0.05,
        "pre_nms_topk": 100,
        "nms_thresh": 0.5,
        "max_dets": 100,
        "clip_boxes": True,
        **changes,
    }
    boxes = torch.tensor(boxes, dtype=torch.float32)
    levels = torch.tensor(levels or [0] * len(boxes))
    return decode_boxes(
        torch.tensor(logits).logit(),
        boxes,
        levels,
        image_size=size,
        settings=BoxDecodeSettings(**settings),
    )


A, A_MOVED, FAR = [10.0, 10, 30, 30], [11.0, 10, 31, 30], [60.0, 50, 90, 80]


def test_nms_is_class_wise():
    found = _decode([[0.9, 0.2], [0.8, 0.01], [0.3, 0.6]], [A, A_MOVED, FAR])
    assert found.boxes.tolist() == [A, FAR, FAR, A]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.3, 0.2])
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert len(_decode([[0.9], [0.8], [0.3]], [A, A_MOVED, FAR], nms_thresh=0.95).boxes) == 3
    assert _decode([[0.9], [0.8], [0.3]], [A, A_MOVED, FAR], max_dets=1).boxes.tolist() == [A]


def test_the_best_locations_of_each_level_are_kept():
    scores, boxes = [[0.9], [0.8], [0.3]], [A, FAR, [120.0, 10, 150, 40]]
    assert _decode(scores, boxes, levels=[0, 0, 1], pre_nms_topk=1).scores.tolist() == (
        pytest.approx([0.9, 0.3])
    )
    assert len(_decode(scores, boxes, levels=[0, 0, 0], pre_nms_topk=1).scores) == 1


def test_boxes_at_the_border():
    boxes = [[-10.0, 20, 30, 40], [190.0, 90, 230, 120], [210.0, 10, 230, 30]]
    scores = [[0.9], [0.8], [0.7]]
    # The last one lies beyond the right border.
    assert _decode(scores, boxes).boxes.tolist() == [[0, 20, 30, 40], [190, 90, 200, 100]]
    assert _decode(scores, boxes, clip_boxes=False).boxes.tolist() == boxes[:2]


def test_classes_stay_apart_beyond_the_border():
    """Classes are kept apart by shifted boxes, which must not meet where boxes are negative."""
    scores, boxes = [[0.9, 0.01], [0.01, 0.8]], [[60.0, 60, 124, 124], [-60.0, -60, 4, 4]]
    found = _decode(scores, boxes, size=(100, 100), clip_boxes=False)
    assert found.boxes.tolist() == boxes


def test_nothing_above_the_threshold():
    found = _decode([[0.01]], [A])
    assert found.boxes.shape == (0, 4) and len(found.scores) == len(found.labels) == 0


@pytest.mark.parametrize(
    "planted, box",
    [
        # Cell (7, 5) of stride 4, centre (22, 30): 8 px to the left and right, 4 up and 6 down.
        (("p2", 7, 5), [14, 26, 30, 36]),
        # Cell (2, 3) of stride 8, centre (28, 20): 16 px to the left and right, 8 up and 12 down.
        (("p3", 2, 3), [12, 12, 44, 32]),
    ],
)
def test_detection_is_in_original_pixels(planted, box):
    """Planted maps: points on the corners of a square around a cell of one of two levels."""
    name, row, column = planted
    model = _model(levels=("p2", "p3"), TRANSFORM="minmax").eval()
    corners = torch.tensor([[-2.0, -1.0], [2.0, 1.5]]).repeat(5, 1)[:9].flatten()

    def head(feature):
        height, width = feature.shape[-2:]
        logits = torch.full((1, 2, height, width), -8.0)
        if height == {"p2": 16, "p3": 8}[name]:
            logits[0, 1, row, column] = 3.0
        refined = corners[:, None, None].expand(1, -1, height, width)
        return logits, torch.zeros(1, 18, height, width), refined

    model.head.forward = head
    with torch.no_grad():
        result = model([box_input([], [], original=(128, 288))])[0]["instances"]
    assert isinstance(result, Instances)
    assert result.image_size == (128, 288)
    x1, y1, x2, y2 = box
    assert result.pred_boxes.tensor.tolist() == [[x1 * 3, y1 * 2, x2 * 3, y2 * 2]]
    assert result.scores.tolist() == pytest.approx([torch.tensor(3.0).sigmoid().item()])
    assert result.pred_classes.tolist() == [1]


def test_detections_do_not_overlap_within_a_class():
    model = _model(SCORE_THRESH=0.0, NMS_THRESH=0.3).eval()
    with torch.no_grad():
        found = model([box_input(**ONE)])[0]["instances"]
    for label in (0, 1):
        own = found[found.pred_classes == label]
        assert len(nms(own.pred_boxes.tensor, own.scores, 0.3)) == len(own)


# --- learning ---


def test_it_learns_to_box_coloured_squares():
    colours = torch.tensor([[230.0, 60.0, 40.0], [50.0, 90.0, 230.0]])
    generator = torch.Generator().manual_seed(0)

    def scene(seed):
        boxes, labels = [], []
        image = torch.full((3, 64, 96), 110.0)
        for slot in range(2):
            side = int(torch.randint(16, 34, (), generator=generator))
            x = 48 * slot + int(torch.randint(0, 48 - side, (), generator=generator))
            y = int(torch.randint(0, 64 - side, (), generator=generator))
            label = int(torch.randint(2, (), generator=generator))
            image[:, y : y + side, x : x + side] = colours[label][:, None, None]
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        item = box_input(boxes, labels, seed=seed)
        item["image"] = image.to(torch.uint8)
        return item

    model = _model(levels=("p3", "p4"), SCORE_THRESH=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scenes = [scene(i) for i in range(3)]
    history = []
    for _ in range(120):
        optimizer.zero_grad()
        loss = _total(model(scenes))
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 4
    assert model.diagnostics["reppoints/init_iou"] > 0.5
    assert model.diagnostics["reppoints/refine_iou"] > 0.5
    model.eval()
    with torch.no_grad():
        results = [x["instances"] for x in model(scenes)]
    for item, found in zip(scenes, results, strict=True):
        truth = item["instances"]
        overlap, best = pairwise_iou(truth.gt_boxes, found.pred_boxes).max(dim=1)
        assert overlap.min() > 0.5
        assert found.pred_classes[best].tolist() == truth.gt_classes.tolist()
        assert len(found) == 2


# --- settings ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("IN_FEATURES", []),
        ("IN_FEATURES", ["p9"]),
        ("IN_FEATURES", ["p3", "p2"]),
        ("IN_FEATURES", ["p2", "p2"]),
        ("NUM_CLASSES", 0),
        ("NUM_CONVS", -1),
        ("CONV_DIM", 40),
        ("NORM", "LN"),
        ("POINT_CONV_DIM", 0),
        ("PRIOR_PROB", 1.0),
        ("NUM_POINTS", 4),
        ("NUM_POINTS", 10),
        ("NUM_POINTS", 1),
        ("NUM_POINTS", -9),
        ("TRANSFORM", "mean"),
        ("MOMENT_MUL", -1.0),
        ("GRADIENT_MUL", -0.1),
        ("POINT_BASE_SCALE", 0.0),
        ("INIT_POSITIVES", 0),
        ("POSITIVE_IOU", 0.0),
        ("POSITIVE_IOU", 1.5),
        ("NEGATIVE_IOU", 0.6),
        ("MIN_POSITIVE_IOU", -0.1),
        ("FOCAL_ALPHA", 1.5),
        ("FOCAL_GAMMA", 0.5),
        ("SMOOTH_L1_BETA", -1.0),
        ("INIT_LOSS_WEIGHT", -1.0),
        ("REFINE_LOSS_WEIGHT", -1.0),
        ("LOSS_NORMALIZER", "mean"),
        ("SCORE_THRESH", 1.5),
        ("PRE_NMS_TOPK", 0),
        ("NMS_THRESH", 1.5),
        ("MAX_DETS", 0),
    ],
)
def test_meaningless_settings_name_their_key(key, value):
    with pytest.raises(InputError, match=f"MODEL.REPPOINTS.{key} is"):
        if key == "IN_FEATURES":
            _model(levels=value)
        else:
            _model(**{key: value})


def test_published_head_size():
    """Parameters of the published head: two towers of three convs, 80 classes."""
    head = _model(num_classes=80, NUM_CONVS=3, CONV_DIM=256, POINT_CONV_DIM=256).head
    head.cls_tower[0], head.point_tower[0] = head.cls_tower[1], head.point_tower[1]
    tower = 3 * (256 * 256 * 9 + 2 * 256)
    points = 256 * 256 * 9 + 256 + 256 * 256 * 9 + 2 * (256 * 18 + 18)
    classes = 256 * 256 * 9 + 256 * 80 + 80
    counted = (
        sum(
            p.numel()
            for module in (head.cls_tower, head.point_tower)
            for p in module[1].parameters()
        )
        * 3
    )
    towers = {"cls_tower", "point_tower"}
    counted += sum(p.numel() for n, p in head.named_parameters() if n.split(".")[0] not in towers)
    assert counted == 2 * tower + points + classes + 2
