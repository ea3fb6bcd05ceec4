"""CPRNet as a Detectron2 meta-architecture: odd batches, gradients, units, no host syncs."""

import pytest
import torch
from detectron2.modeling import build_model

import cpr.modeling  # noqa: F401 (registers the meta-architectures)
from tiny_models import point_input, tiny_cfg

ONE = {"points": [[20.0, 30.0], [60.0, 40.0]], "labels": [0, 1]}


def _model(**kwargs):
    torch.manual_seed(0)
    return build_model(tiny_cfg("CPRNet", **kwargs))


def _total(losses):
    return sum(losses.values())


@pytest.mark.parametrize(
    ("depth", "level", "stages"),
    [
        (18, "p2", ["res2", "res3", "res4"]),
        (18, "p4", ["res4", "res5"]),
        (34, "p3", ["res3", "res4", "res5"]),
        (50, "p2", ["res2", "res3", "res4", "res5"]),
        (101, "p3", ["res3", "res4"]),
    ],
)
def test_every_backbone_and_level_takes_a_step(depth, level, stages):
    cfg = tiny_cfg("CPRNet")
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = stages
    cfg.MODEL.FPN.IN_FEATURES = stages
    cfg.MODEL.CPRNET.IN_FEATURE = level
    model = build_model(cfg)
    assert model.stride == {"p2": 4, "p3": 8, "p4": 16}[level]
    losses = model([point_input(**ONE)])
    _total(losses).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_in_feature_must_be_made_by_the_backbone():
    cfg = tiny_cfg("CPRNet")
    cfg.MODEL.CPRNET.IN_FEATURE = "p5"
    with pytest.raises(ValueError, match=r"MODEL\.CPRNET\.IN_FEATURE"):
        build_model(cfg)


@pytest.mark.parametrize(
    "key, value",
    [
        ("NUM_CLASSES", 0),
        ("NORM", "LN"),
        ("CONV_DIM", 20),
        ("HEAD_INIT", "zero"),
        ("RADIUS", 0),
        ("U0", 0),
        ("GAMMA", 0.5),
        ("LOSS_NORMALIZER", "mean"),
        ("REFINE.ANNOTATED_POINT", "never"),
    ],
)
def test_meaningless_settings_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"MODEL.CPRNET.{key} is"):
        _model(**{f"MODEL.CPRNET.{key}": value})


@pytest.mark.parametrize("term", ["loss_mil", "loss_ann", "loss_neg"])
def test_every_loss_term_moves_its_parameters(term):
    model = _model()
    losses = model([point_input(**ONE)])
    losses[term].backward()
    moved = {
        name: parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in model.named_parameters()
    }
    assert moved["head.cls_score.weight"]
    assert moved["head.ins_score.weight"] == (term == "loss_mil")
    assert moved["backbone.output_conv.weight"]


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="empty image"),
        pytest.param([[-500.0, -500.0]], id="bag outside the image"),
        pytest.param([[0.0, 0.0], [95.9, 63.9]], id="corners"),
    ],
)
def test_odd_images_train_and_refine(num_classes, points):
    model = _model(num_classes=num_classes)
    inputs = [point_input(points, [0] * len(points))]
    losses = model(inputs)
    _total(losses).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.eval()
    with torch.no_grad():
        result = model(inputs)[0]["instances"]
    assert result.refined_points.shape == (len(points), 2)
    assert torch.isfinite(result.refined_points).all()


def test_batch_is_the_weighted_mean_of_its_images():
    """With the normaliser M, a batch weighs each image by its number of objects."""
    model = _model()
    first = point_input([[20.0, 30.0], [60.0, 40.0], [70.0, 20.0]], [0, 1, 1], seed=1)
    second = point_input([[30.0, 30.0]], [0], seed=2)
    empty = point_input([], [], seed=3)
    single = [model([x]) for x in (first, second)]
    batch = model([first, second])
    for name, value in batch.items():
        expected = (3 * single[0][name] + single[1][name]) / 4
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    # An image without objects adds its negatives only.
    with_empty, alone = model([second, empty]), model([empty])
    torch.testing.assert_close(with_empty["loss_mil"], single[1]["loss_mil"])
    torch.testing.assert_close(
        with_empty["loss_neg"], single[1]["loss_neg"] + alone["loss_neg"], rtol=1e-5, atol=1e-6
    )


def test_padding_of_the_batch_does_not_change_an_image():
    """Cells beyond an image's own padded size are no negatives, whatever the canvas."""
    model = _model()
    small = point_input(**ONE, size=(64, 96))
    big = point_input([[100.0, 100.0]], [1], size=(128, 160), seed=5)
    alone = model([small])["loss_mil"], model([big])["loss_mil"]
    together = model([small, big])["loss_mil"]
    # GroupNorm sees the canvas, so the agreement is close but not exact.
    assert together.item() == pytest.approx((2 * alone[0] + alone[1]).item() / 3, rel=0.05)


def test_regions_are_left_out_of_the_negatives():
    everything = [[0.0, 0.0, 96.0, 64.0]]
    plain, ignored = point_input(**ONE), point_input(**ONE, regions=everything)
    model = _model()
    assert model([ignored])["loss_neg"].item() == 0
    assert model([plain])["loss_neg"].item() > 0
    model.ignore_as_background = True
    torch.testing.assert_close(model([ignored])["loss_neg"], model([plain])["loss_neg"])


def test_inference_gives_original_pixels_and_diagnostics():
    model = _model().eval()
    inputs = [
        point_input(**ONE, original=(128, 288)),
        point_input([], [], seed=2, size=(32, 64)),
    ]
    with torch.no_grad():
        first, second = (x["instances"] for x in model(inputs))
    torch.testing.assert_close(
        first.coarse_points, inputs[0]["instances"].gt_points * torch.tensor([3.0, 2.0])
    )
    assert first.image_size == (128, 288)
    assert first.gt_ids.tolist() == inputs[0]["instances"].gt_ids.tolist()
    assert first.bag_points.shape == (2, 25, 2)
    assert first.kept.shape == (2, 25)
    # Untrained scores are near the prior 0.01: nothing is kept, the clicks come back.
    assert not first.refined.any()
    torch.testing.assert_close(first.refined_points, first.coarse_points)
    assert len(second) == 0


def test_training_forward_never_waits_for_the_device(monkeypatch):
    """No call that copies a tensor to the host; on a GPU `set_sync_debug_mode` shows the same."""
    model = _model()
    inputs = [point_input(**ONE), point_input([], [], seed=2)]
    model(inputs)

    def refuse(self, *args, **kwargs):
        raise AssertionError("host sync in the training forward")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    losses = model(inputs)
    monkeypatch.undo()
    assert torch.isfinite(_total(losses))
    assert set(model.diagnostics) == {"cpr/bag_score", "cpr/bag_accuracy"}


@pytest.mark.gpu
def test_training_forward_never_syncs_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = _model().cuda()
    inputs = [point_input(**ONE), point_input([], [], seed=2)]
    model(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_planted_semantic_part_is_found():
    """Trained on drawn blobs with clicks on a random side, the refined points move to the blobs."""
    generator = torch.Generator().manual_seed(0)
    height, width = 64, 96
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")

    def scene(seed):
        centres = torch.tensor([[24.0, 32.0], [68.0, 30.0]]) + torch.randint(
            -6, 7, (2, 2), generator=generator
        )
        clicks = centres + torch.randint(-7, 8, (2, 2), generator=generator)
        item = point_input(clicks.tolist(), [0, 0], seed=seed)
        image = torch.full((height, width), 60.0) + 8 * torch.randn(
            height, width, generator=generator
        )
        for cx, cy in centres.tolist():
            image[((x - cx) ** 2 + (y - cy) ** 2) < 25] = 220.0
        item["image"] = image.clamp(0, 255).to(torch.uint8).expand(3, -1, -1).contiguous()
        return item, centres

    cfg = tiny_cfg("CPRNet", num_classes=1)
    cfg.MODEL.CPRNET.RADIUS = 3
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scenes = [scene(i) for i in range(20)]
    for step in range(80):
        batch = [scenes[(4 * step + i) % 20][0] for i in range(4)]
        optimizer.zero_grad()
        _total(model(batch)).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        results = [x["instances"] for x in model([item for item, _ in scenes])]
    centres = torch.cat([centre for _, centre in scenes])
    before = (torch.cat([r.coarse_points for r in results]) - centres).norm(dim=1).mean()
    after = (torch.cat([r.refined_points for r in results]) - centres).norm(dim=1).mean()
    assert torch.cat([r.refined for r in results]).float().mean() > 0.9
    assert after < 0.5 * before
