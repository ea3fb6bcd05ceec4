"""CPRNet as a Detectron2 meta-architecture: odd batches, gradients, units, no host syncs."""

import pytest
import torch
from detectron2.modeling import build_model

import cpr.modeling  # noqa: F401 (registers the meta-architectures)
import host_syncs
from cpr.modeling import cprnet
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
        ("REGION", "square"),
        ("REGION_ASPECT", 0.0),
        ("GAMMA", 0.5),
        ("LOSS_NORMALIZER", "mean"),
        ("REFINE.ANNOTATED_POINT", "never"),
        ("REFINE.DELTA1", -0.1),
        ("REFINE.DELTA2", -0.1),
        ("REFINE.SCORE_THRESH", 1.1),
    ],
)
def test_meaningless_settings_name_their_key(key, value):
    with pytest.raises(ValueError, match=f"MODEL.CPRNET.{key} is"):
        _model(**{f"MODEL.CPRNET.{key}": value})


def test_weights_of_the_losses_are_checked():
    with pytest.raises(ValueError, match=r"MODEL\.CPRNET\.ALPHA_NEG"):
        _model(**{"MODEL.CPRNET.ALPHA_NEG": -1.0})
    with pytest.raises(ValueError, match=r"the sum of all MODEL\.CPRNET\.ALPHA"):
        _model(**{"MODEL.CPRNET.LOSS_SCALE": 0.0})


def test_a_rectangle_needs_a_cell_beside_the_click():
    with pytest.raises(ValueError, match=r"MODEL\.CPRNET\.RADIUS is 1; it must be larger"):
        _model(**{"MODEL.CPRNET.RADIUS": 1, "MODEL.CPRNET.REGION": "rectangle"})


def test_rectangular_region_is_used_for_bags_and_negatives():
    region = {"MODEL.CPRNET.REGION": "rectangle", "MODEL.CPRNET.REGION_ASPECT": 2.0}
    model = _model(num_classes=1, **region, **{"MODEL.CPRNET.RADIUS": 4}).eval()
    # Area 50.3 cells: 10.03 x 5.01, so 5 cells to each side and 2 up and down.
    click = [50.0, 30.0]
    with torch.no_grad():
        result = model([point_input([click], [0])])[0]["instances"]
    bag = result.bag_points[0]
    assert len(bag) == 11 * 5
    assert bag.min(dim=0).values.tolist() == [click[0] - 5 * 4, click[1] - 2 * 4]
    assert bag.max(dim=0).values.tolist() == [click[0] + 5 * 4, click[1] + 2 * 4]
    assert bag[-1].tolist() == click
    # An ignored region over the rectangle takes no negative away; one that is a cell larger does.
    model.train()

    def negatives(*regions):
        return model([point_input([click], [0], regions=regions)])["loss_neg"]

    def around(half_w, half_h):
        return [click[0] - half_w, click[1] - half_h, click[0] + half_w, click[1] + half_h]

    assert negatives(around(4 * 5.013, 4 * 2.507)) == negatives()
    assert negatives(around(4 * 6.013, 4 * 2.507)) < negatives()
    assert negatives(around(4 * 5.013, 4 * 3.507)) < negatives()


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"mil", "ann", "neg"}),
        ({"MIL": 0.0, "POS": 1.0}, {"pos", "ann", "neg"}),
        ({"MIL": 0.0}, {"ann", "neg"}),
        ({"NEG": 0.0}, {"mil", "ann"}),
        ({"ANN": 0.0, "NEG": 0.0}, {"mil"}),
        ({"MIL": 0.0, "ANN": 0.0}, {"neg"}),
    ],
)
def test_terms_of_the_loss_are_chosen_by_their_weights(changes, terms, monkeypatch):
    model = _model(**{f"MODEL.CPRNET.ALPHA_{key}": value for key, value in changes.items()})
    if "neg" not in terms:
        monkeypatch.delattr("cpr.modeling.cprnet.negative_mask")
    losses = model([point_input(**ONE), point_input([], [], seed=2)])
    assert losses.keys() == {f"loss_{term}" for term in terms}
    _total(losses).backward()
    # Also a branch that nothing trains has a gradient: DistributedDataParallel waits for it.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    trained = bool(model.head.ins_score.weight.grad.abs().sum() > 0)
    assert trained == ("mil" in terms)


@pytest.mark.parametrize("term", ["loss_mil", "loss_ann", "loss_neg", "loss_pos"])
def test_every_loss_term_moves_its_parameters(term):
    model = _model(**{"MODEL.CPRNET.ALPHA_POS": 1.0})
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
    assert first.moved.tolist() == [0, 0]
    assert len(second) == 0


def _lively(**kwargs):
    """Class scores on both sides of the thresholds."""
    model = _model(**kwargs)
    score = model.head.cls_score
    generator = torch.Generator().manual_seed(0)
    score.weight.data = 0.2 * torch.randn(score.weight.shape, generator=generator)
    score.bias.data.zero_()
    return model


# Neighbours of one class, a bag that leaves its image, and images of two sizes.
CROWD = [
    point_input([[20.0, 30.0], [27.0, 33.0], [24.0, 24.0]], [0, 0, 1]),
    point_input([[2.0, 40.0], [60.0, 31.0]], [1, 1], seed=3, size=(60, 90)),
]


def test_moved_is_in_units_of_the_radius():
    original = point_input(
        [[20.0, 30.0], [27.0, 33.0], [24.0, 24.0]], [0, 0, 1], original=(128, 192)
    )
    model = _lively().eval()
    with torch.no_grad():
        result = model([original])[0]["instances"]
    assert result.refined.any()
    # R = 2 cells of 4 px, and 2 original px per px.
    expected = (result.refined_points - result.coarse_points).norm(dim=1) / (2 * 4 * 2)
    torch.testing.assert_close(result.moved, expected)


def test_inference_says_what_the_surroundings_look_like():
    with torch.no_grad():
        results = [x["instances"] for x in _lively().eval()(CROWD)]
        single = _lively(**{"MODEL.CPRNET.NUM_CLASSES": 1}).eval()
        alone = single([point_input([[20.0, 30.0]], [0])])[0]["instances"]
    for result in results:
        assert (result.other_labels != result.gt_classes).all()
        for scores in (result.own_scores, result.other_scores):
            assert ((scores > 0) & (scores < 1)).all()
    # With one class there is no other.
    assert not alone.has("own_scores")


@pytest.mark.parametrize("mil", [0.0, 1.0])
def test_diagnostics_are_those_of_the_refinement_on_the_same_batch(mil):
    model = _lively(**{"MODEL.CPRNET.ALPHA_MIL": mil, "MODEL.CPRNET.REFINE.DELTA1": 0.5})
    assert model.diagnostics == {}
    model(CROWD)
    logged = model.diagnostics
    model.eval()
    with torch.no_grad():
        results = [x["instances"] for x in model(CROWD)]
    kept_by = torch.cat([r.kept_by for r in results]).sum(dim=0).tolist()
    assert kept_by[0] < 25 * 5
    for name, kept in zip(("I", "II", "III"), kept_by[1:], strict=True):
        removed = 1 - kept / kept_by[0]
        assert 0 < removed < 1
        assert logged[f"cpr/removed_{name}"].item() == pytest.approx(removed)
    refined = torch.cat([r.refined for r in results]).float().mean()
    assert logged["cpr/refined"] == refined
    assert not any(value.requires_grad for value in logged.values())
    assert 0 < logged["cpr/bag_score"] < 1


def test_diagnostics_cost_nothing_until_they_are_read(monkeypatch):
    model = _lively()
    calls = []
    original = cprnet.refine_points

    def counted(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(cprnet, "refine_points", counted)
    model(CROWD)
    assert not calls
    assert model.diagnostics
    assert len(calls) == len(CROWD)
    # A batch without objects has nothing to say.
    model([point_input([], [])])
    assert model.diagnostics == {}


ABLATION = {
    "MODEL.CPRNET.ALPHA_MIL": 0.0,
    "MODEL.CPRNET.ALPHA_POS": 1.0,
    "MODEL.CPRNET.REGION": "rectangle",
}


@pytest.mark.parametrize("options", [{}, ABLATION], ids=["default", "pos, rectangle"])
def test_training_forward_never_waits_for_the_device(options, monkeypatch):
    """No call that copies a tensor to the host; on a GPU `set_sync_debug_mode` shows the same."""
    model = _model(**options)
    inputs = [point_input(**ONE), point_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused(monkeypatch):
        losses = model(inputs)
    assert torch.isfinite(_total(losses))
    assert model.diagnostics.keys() == {
        *("cpr/bag_score", "cpr/bag_accuracy", "cpr/refined"),
        *("cpr/removed_I", "cpr/removed_II", "cpr/removed_III"),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, ABLATION], ids=["default", "pos, rectangle"])
def test_training_forward_never_syncs_on_a_gpu(options):
    host_syncs.need_gpu()
    model = _model(**options).cuda()
    inputs = [point_input(**ONE), point_input([], [], seed=2)]
    model(inputs)
    with host_syncs.refused_on_gpu():
        model(inputs)


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
