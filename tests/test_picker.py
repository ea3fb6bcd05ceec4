import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import depth_scenes
from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.picking.picker import PickSettings, PointPicker, RefusalCode
from cpr_deploy.picking.workspace import Workspace
from cpr_deploy.transforms import Transform
from depth_scenes import CAMERA, point

STILL = PickSettings(stable_frames=1)
FLAT_CAMERA = CameraModel(160, 120, [[200.0, 0, 79.5], [0, 200, 59.5], [0, 0, 1]], "none")


def flat_picker(**settings):
    return PointPicker(
        FLAT_CAMERA, Transform.identity(), PickSettings(**{"stable_frames": 1, **settings})
    )


def flat_depth(z=1.0, seed=0):
    """A wall with a sensor's noise, so that no two frames are the same."""
    noise = np.random.default_rng(seed).normal(0, 1e-4, (120, 160))
    return (z + noise).astype(np.float32)


def pick(picker, points, depth, *, stamp=100.0, now=None, unit="m", **options):
    now = stamp if now is None else now
    return picker.pick(points, depth, stamp=stamp, now=now, depth_unit=unit, **options)


def codes(result):
    return [refusal.code for refusal in result.refusals]


# --- places ---


@pytest.mark.parametrize("unit", ["mm", "m"])
def test_a_rendered_scene_is_picked_within_2_mm_and_noise(unit):
    """Places on the boxes' tops and the table, at least 25 mm from every edge, from six poses."""
    rng = np.random.default_rng(3)
    picked = 0
    for _ in range(6):
        pose = depth_scenes.camera_pose(rng)
        clean = depth_scenes.render(CAMERA, pose)
        xy = places_off_edges(rng, pose)
        truth = depth_scenes.places(CAMERA, pose, xy)
        sigma = STILL.depth_sigma(clean)
        depth = clean + rng.normal(0, 1, clean.shape) * sigma
        depth[rng.random(depth.shape) < 0.03] = 0
        if unit == "mm":
            depth = np.round(1000 * depth).astype(np.uint16)
        picker = PointPicker(CAMERA, pose, PickSettings(stable_frames=1, min_separation=0))
        points = [point(place, label=index) for index, place in enumerate(xy)]
        result = pick(picker, points, depth, unit=unit)
        assert len(result.targets) + len(result.refusals) == len(xy)
        for target in result.targets:
            place = truth[target.label]
            noise = STILL.depth_sigma(target.depth)
            assert np.linalg.norm(target.position - place) < 0.002 + noise
            # All tops are level; the approach is into them.
            assert target.approach @ [0, 0, -1] > np.cos(np.radians(12))
            assert np.linalg.norm(target.approach) == pytest.approx(1)
        picked += len(result.targets)
        assert len(result.targets) > 0.9 * len(xy)
    assert picked > 90


def places_off_edges(rng, pose):
    """Px (N, 2) where all within 25 mm of the place is of the same height and is seen."""
    tops = [(*(low[:2] + 0.025), *(high[:2] - 0.025), high[2]) for low, high in depth_scenes.BOXES]
    spots = [(rng.uniform(x1, x2), rng.uniform(y1, y2), z) for x1, y1, x2, y2, z in tops * 5]
    spots += [(-0.02, 0.0, 0), (0.1, 0.0, 0), (-0.2, 0.1, 0)]
    around = 0.025 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [0.7, 0.7], [-0.7, -0.7]])
    kept = []
    for spot in np.array(spots):
        ring = np.column_stack([spot[:2] + around, np.full(len(around), spot[2])])
        xy = depth_scenes.pixels_of(CAMERA, pose, ring)
        inside = (xy > 12).all() and (xy < [CAMERA.width - 12, CAMERA.height - 12]).all()
        if inside and np.allclose(depth_scenes.places(CAMERA, pose, xy), ring, atol=1e-5):
            kept.append(xy[0])
    return np.array(kept)


@pytest.mark.parametrize("aim", ["point", "interior"])
def test_every_point_of_a_scene_is_on_its_surface_or_refused(aim):
    """Also at edges: the target lies where the renderer says that its px shows."""
    rng = np.random.default_rng(4)
    picked = 0
    for _ in range(3):
        pose = depth_scenes.camera_pose(rng)
        clean = depth_scenes.render(CAMERA, pose)
        depth = clean + rng.normal(0, 0.3, clean.shape) * STILL.depth_sigma(clean)
        xy = rng.uniform([0, 0], [CAMERA.width, CAMERA.height], (300, 2))
        settings = PickSettings(stable_frames=1, min_separation=0, aim=aim)
        result = pick(PointPicker(CAMERA, pose, settings), [point(place) for place in xy], depth)
        assert len(result.targets) + len(result.refusals) == 300
        at = np.array([target.image_point for target in result.targets])
        truth = depth_scenes.places(CAMERA, pose, at)
        found = np.array([target.position for target in result.targets])
        assert np.linalg.norm(found - truth, axis=1).max() < STILL.edge_tolerance(0.9)
        picked += len(found)
    assert picked > 500


def test_covariance_covers_what_noise_does():
    """Sampled noise of points and depths: 95 % ellipsoids cover 95 % or more, but not by far."""
    rng = np.random.default_rng(5)
    pose = depth_scenes.camera_pose(rng)
    clean = depth_scenes.render(CAMERA, pose)
    xy = places_off_edges(rng, pose)
    truth = depth_scenes.places(CAMERA, pose, xy)
    distances = []
    for _ in range(60):
        depth = clean + rng.normal(0, 1, clean.shape) * STILL.depth_sigma(clean)
        points = [point(place, label=i) for i, place in enumerate(xy + rng.normal(0, 1, xy.shape))]
        settings = PickSettings(stable_frames=1, min_separation=0, pixel_sigma=1.0)
        for target in pick(PointPicker(CAMERA, pose, settings), points, depth).targets:
            off = target.position - truth[target.label]
            distances.append(off @ np.linalg.solve(target.covariance, off))
            eigenvalues = np.linalg.eigvalsh(target.covariance)
            assert (eigenvalues > 0).all()
    # Chi-square with 3 degrees of freedom: 7.81 at 95 %, and its mean is 3. Noise of the px is
    # independent here, which the covariance does not count on.
    assert np.mean(np.array(distances) < 7.81) > 0.95
    assert 1 < np.mean(distances) < 3.2


def test_camera_on_the_arm_is_a_camera_that_stands_where_the_arm_holds_it():
    rng = np.random.default_rng(6)
    hand_from_camera = Transform(Rotation.random(rng=rng).as_matrix(), [0.05, 0.01, 0.1])
    points = [point((80, 60)), point((40.5, 30.2))]
    on_arm = PointPicker(FLAT_CAMERA, settings=STILL, hand_from_camera=hand_from_camera)
    for seed in range(3):
        base_from_hand = Transform(Rotation.random(rng=rng).as_matrix(), rng.normal(size=3))
        fixed = PointPicker(FLAT_CAMERA, base_from_hand @ hand_from_camera, STILL)
        stamp, depth = 100.0 + seed, flat_depth(seed=seed)
        moving = pick(on_arm, points, depth, stamp=stamp, base_from_hand=base_from_hand)
        still = pick(fixed, points, depth, stamp=stamp)
        assert moving.to_dict() == still.to_dict() and len(still.targets) == 2


def test_depth_scale_of_the_camera():
    """RealSense tells metres per unit: here 1/4 mm."""
    depth = np.round(flat_depth() / 0.00025).astype(np.uint16)
    (target,) = pick(flat_picker(), [point((80, 60))], depth, unit=0.00025).targets
    assert target.depth == pytest.approx(1.0, abs=2e-3)


def test_a_target_as_json():
    points = [point((80, 60), track_id=7), point((20, 20), score=0.5)]
    result = pick(flat_picker(), points, flat_depth(), stamp=1.5)
    value = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    target = value["targets"][0]
    assert value["live"] and target["track_id"] == 7 and target["class_name"] == "box"
    np.testing.assert_allclose(target["position"], [0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(target["approach"], [0, 0, 1], atol=1e-2)
    assert target["confidence"] == pytest.approx(0.9) and np.shape(target["covariance"]) == (3, 3)
    assert len({item["id"] for item in value["targets"]}) == 2
    assert "track_id" not in value["targets"][1]
    refused = pick(flat_picker(), points, np.zeros((120, 160)), stamp=1.5)
    value = json.loads(json.dumps(refused.to_dict(), allow_nan=False))
    assert value["refusals"][0]["code"] == "too_few_valid" and value["targets"] == []
    assert value["refusals"][0]["image_point"] == [80.0, 60.0]


# --- refusals ---


def with_edge(depth):
    depth[:, 81:] = 1.3
    return depth


def slanted():
    """A wall seen at 45 degrees from its normal in the middle."""
    column = np.arange(160) + 0.5 - 80
    return np.tile(1.0 / (1 - column / 200 * np.tan(np.radians(45))), (120, 1))


REFUSALS = {
    RefusalCode.NEAR_BORDER: ({}, [point((5, 60))], flat_depth()),
    RefusalCode.TOO_FEW_VALID: ({}, [point((80, 60))], np.zeros((120, 160), np.float32)),
    RefusalCode.DEPTH_EDGE: ({}, [point((80.5, 60))], with_edge(flat_depth())),
    RefusalCode.OUT_OF_RANGE: ({"max_range": 0.9}, [point((80, 60))], flat_depth()),
    RefusalCode.TOO_STEEP: ({"max_incidence": 44}, [point((80, 60))], slanted()),
    RefusalCode.OUTSIDE_WORKSPACE: (
        {"workspace": Workspace(box=([-1, -1, 0], [-0.1, 1, 2]))},
        [point((80, 60))],
        flat_depth(),
    ),
    RefusalCode.UNSTABLE: ({"stable_frames": 2}, [point((80, 60))], flat_depth()),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_of_a_point(code):
    settings, points, depth = REFUSALS[code]
    result = pick(flat_picker(**settings), points, depth)
    (refusal,) = result.refusals
    assert refusal.code == code and refusal.reason and result.targets == [] and result.live
    assert refusal.image_point == (points[0]["x"], points[0]["y"]) and refusal.score == 0.9


def test_near_range_and_polygon():
    near = pick(flat_picker(min_range=1.2), [point((80, 60))], flat_depth())
    assert codes(near) == ["out_of_range"]
    triangle = Workspace(polygon=[[0.1, -1], [1, 0], [0.1, 1]])
    points = [point((80, 60)), point((120, 60))]
    result = pick(flat_picker(workspace=triangle), points, flat_depth())
    assert codes(result) == ["outside_workspace"] and result.targets[0].image_point == (120, 60)


def test_points_outside_of_the_image_are_near_its_border():
    points = [point(place) for place in ((-50, 60), (1e9, 60), (80, 119), (160, 120))]
    assert codes(pick(flat_picker(), points, flat_depth())) == ["near_border"] * 4
    assert codes(pick(flat_picker(border=0), points[:2], flat_depth())) == ["near_border"] * 2


def test_no_ray_where_the_lens_has_none():
    k = FLAT_CAMERA.k
    camera = CameraModel(160, 120, k, "plumb_bob", [-3.0, 0, 0, 0, 0])
    picker = PointPicker(camera, Transform.identity(), STILL)
    result = pick(picker, [point((20, 60)), point((80, 60))], flat_depth())
    assert codes(result) == ["no_ray"] and len(result.targets) == 1


def test_too_close_keeps_the_better():
    points = [
        point((80, 60), 0.5),
        point((81, 60), 0.9),
        point((83, 61), 0.7),
        point((30, 60), 0.1),
    ]
    result = pick(flat_picker(min_separation=0.02), points, flat_depth())
    assert [target.score for target in result.targets] == [0.9, 0.1]
    assert codes(result) == ["too_close"] * 2


FRAME_REFUSALS = {
    "old": (RefusalCode.STALE, {"stamp": 100.0, "now": 100.6}),
    "ahead": (RefusalCode.STALE, {"stamp": 100.0, "now": 99.8}),
    "frozen image": (RefusalCode.FROZEN, {"frozen": True}),
    "network gave NaN": (RefusalCode.NO_RESULT, {"flags": 4 | 1}),
}


@pytest.mark.parametrize("case", FRAME_REFUSALS)
def test_each_refusal_of_a_frame(case):
    """Of every point, and of a frame without points as well."""
    code, options = FRAME_REFUSALS[case]
    result = pick(flat_picker(), [point((80, 60)), point((30, 30))], flat_depth(), **options)
    assert codes(result) == [code] * 2 and result.targets == [] and not result.live
    assert result.refusals[1].image_point == (30, 30)
    empty = pick(flat_picker(), [], flat_depth(), **options)
    assert codes(empty) == [code] and empty.refusals[0].image_point is None and not empty.live


def test_without_the_arms_pose():
    picker = PointPicker(FLAT_CAMERA, settings=STILL, hand_from_camera=Transform.identity())
    result = pick(picker, [point((80, 60))], flat_depth())
    assert codes(result) == ["no_transform"] and not result.live


def test_the_very_same_depth_is_a_frozen_stream():
    picker, depth = flat_picker(frozen_after=1.0), flat_depth()
    live = [pick(picker, [], depth, stamp=100 + 0.25 * i).live for i in range(6)]
    assert live == [True] * 4 + [False] * 2
    assert pick(picker, [], flat_depth(seed=1), stamp=101.75).live
    # A covered camera shows nothing, and says so itself.
    blind = [
        pick(picker, [point((80, 60))], np.full((120, 160), np.nan), stamp=stamp)
        for stamp in (102.0, 103.0, 104.0)
    ]
    assert [codes(result) for result in blind] == [["too_few_valid"]] * 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("aim", ["point", "interior"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_garbage_is_refused_without_a_word(aim, dtype):
    """Any bits at all in the depth image: each point is a finite target or a refusal."""
    rng = np.random.default_rng(7)
    limits = {np.float32: 4, np.float64: 8, np.uint16: 2}
    points = [point(xy) for xy in rng.uniform(-5, [165, 125], (40, 2))]
    for share in (0.02, 0.3, 1.0):
        depth = flat_depth().astype(dtype) * (1000 if dtype == np.uint16 else 1)
        bits = np.frombuffer(rng.bytes(120 * 160 * limits[dtype]), dtype).reshape(120, 160)
        depth = np.where(rng.random(depth.shape) < share, bits, depth).astype(dtype)
        result = pick(flat_picker(aim=aim), points, depth, unit=0.001 if dtype == np.uint16 else 1)
        assert len(result.targets) + len(result.refusals) == 40
        json.dumps(result.to_dict(), allow_nan=False)
        assert all(abs(target.depth - 1) < 0.02 for target in result.targets) or share == 1
        assert result.targets or share > 0.02


# --- over frames ---


def test_a_place_must_be_seen_in_a_row_of_frames():
    picker = flat_picker(stable_frames=3)
    found = []
    # z jumps in the fourth frame; the fifth to seventh agree again.
    for index, z in enumerate([1, 1, 1, 1.1, 1.1, 1.1, 1.1]):
        result = pick(picker, [point((80, 60))], flat_depth(z, seed=index), stamp=100 + 0.1 * index)
        found.append(len(result.targets))
    assert found == [0, 0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 0.1, 0.2], [0, 0, 1]),
        ([0, 0.1, 0.9], [0, 0, 0]),  # a gap
        ([0, 0, 0, 0.1], [0, 0, 0, 0]),  # the same frame again is no evidence
        ([5, 5.1, 0, 0.1, 0.2], [0, 0, 0, 0, 1]),  # a recording begins anew
    ],
)
def test_which_frames_count(stamps, expected):
    picker = flat_picker(stable_frames=3)
    found = [
        len(pick(picker, [point((80, 60))], flat_depth(seed=index), stamp=100 + stamp).targets)
        for index, stamp in enumerate(stamps)
    ]
    assert found == expected


def test_an_interior_aim_that_moves_with_the_holes_is_stable():
    """Another hole each frame moves the aim by more than stable_radius, not the point."""
    picker = flat_picker(stable_frames=3, aim="interior", stable_radius=0.005)
    aims = []
    for index in range(4):
        depth = flat_depth(seed=index)
        depth[40:80, 60:64] = depth[40:80, 100:104] = 0.8
        hole = 10 * (index % 2)
        depth[55 + hole : 59 + hole, 78:88] = 0
        result = pick(picker, [point((76, 62))], depth, stamp=100 + 0.1 * index)
        aims += [target.position for target in result.targets]
    assert len(aims) == 2 and np.linalg.norm(aims[0] - aims[1]) > 0.005


def test_a_new_point_beside_stable_ones_waits_alone():
    picker = flat_picker(stable_frames=2)
    pick(picker, [point((80, 60)), point((120, 60))], flat_depth(seed=0), stamp=1)
    result = pick(picker, [point((81, 60)), point((30, 60))], flat_depth(seed=1), stamp=1.1)
    assert [target.image_point for target in result.targets] == [(81, 60)]
    assert codes(result) == ["unstable"]
    # A frame that is refused breaks the row.
    pick(picker, [point((80, 60))], flat_depth(seed=2), stamp=1.2, frozen=True)
    assert codes(pick(picker, [point((80, 60))], flat_depth(seed=3), stamp=1.3)) == ["unstable"]


# --- order ---

SPREAD = [point((25, 60), 0.5), point((60, 60), 0.9), point((65, 60), 0.7), point((130, 60), 0.2)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [60, 65, 25, 130]),
        ({"order": "distance"}, [65, 60, 130, 25]),
        ({"order": "distance", "reach_from": (-0.3, 0, 1)}, [25, 60, 65, 130]),
        ({"order": "clearance"}, [130, 25, 60, 65]),
        ({"order": lambda target: -target.position[0]}, [130, 65, 60, 25]),
    ],
)
def test_order(settings, expected):
    result = pick(flat_picker(**settings), SPREAD, flat_depth())
    # Two have the same clearance, to noise.
    found = [target.image_point[0] for target in result.targets]
    if settings.get("order") == "clearance":
        found[2:] = sorted(found[2:])
    assert found == expected


def test_clearance_counts_refused_points_too():
    space = Workspace(box=([-1, -1, 0], [0, 1, 2]))
    (target,) = pick(
        flat_picker(workspace=space), [point((70, 60)), point((90, 60))], flat_depth()
    ).targets
    assert target.clearance == pytest.approx(0.1, abs=1e-3)
    (alone,) = pick(flat_picker(), [point((70, 60))], flat_depth()).targets
    assert alone.clearance == np.inf and "clearance" not in alone.to_dict()


# --- bad input ---


@pytest.mark.parametrize(
    ("depth", "unit", "message"),
    [
        (np.ones((60, 80), np.float32), "m", "is 80x60 px, the camera 160x120"),
        (np.ones((120, 160), np.uint8), "mm", "values of uint8"),
        (np.ones((120, 160), np.int32), "mm", "values of int32"),
        (np.ones((120, 160, 3), np.float32), "m", r"shape \(120, 160, 3\)"),
        ("depth.png", "m", "has <class 'str'>"),
        (flat_depth(), "cm", "depth_unit 'cm'"),
        (flat_depth(), 0, "depth_unit 0"),
        (flat_depth(), -0.001, "depth_unit -0.001"),
        (flat_depth(), None, "depth_unit None"),
        (flat_depth(), np.nan, "depth_unit nan"),
        (np.ones((120, 160), np.uint16), "m", "whole metres"),
    ],
)
def test_bad_depth(depth, unit, message):
    with pytest.raises(InputError, match=message):
        pick(flat_picker(), [point((80, 60))], depth, unit=unit)


@pytest.mark.parametrize(
    "bad", [{"x": 1, "y": 2}, {"x": np.nan, "y": 2, "score": 1}, {"x": "a", "y": 1, "score": 1}, 5]
)
def test_bad_points(bad):
    with pytest.raises(InputError, match=r"points\[1\]: is .*finite x, y"):
        pick(flat_picker(), [point((80, 60)), bad], flat_depth())


def test_bad_times_and_poses():
    with pytest.raises(InputError, match="stamp nan"):
        pick(flat_picker(), [], flat_depth(), stamp=np.nan)
    with pytest.raises(InputError, match="this camera stands still"):
        pick(flat_picker(), [], flat_depth(), base_from_hand=Transform.identity())
    for poses in (
        {},
        dict.fromkeys(("base_from_camera", "hand_from_camera"), Transform.identity()),
    ):
        with pytest.raises(InputError, match="give one of them"):
            PointPicker(FLAT_CAMERA, **poses)


def test_settings_from_json():
    value = {
        "stable_frames": 1,
        "order": "distance",
        "workspace": {"polygon": [[0, 0], [1, 0], [0, 1]]},
    }
    settings = PickSettings.from_dict(value)
    assert settings.order == "distance" and settings.workspace.polygon[1] == (1.0, 0.0)
    assert PickSettings.from_dict({}) == PickSettings()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"max_agee": 1}, "cell.json: unknown max_agee"),
        ({"max_age": 0}, "cell.json: max_age 0"),
        ({"max_age": "1"}, "max_age '1'"),
        ({"depth_radius": 2.5}, "depth_radius 2.5"),
        ({"normal_radius": 1000}, "from 2 to 64"),
        ({"depth_radius": 9}, "normal_radius 7: at least depth_radius"),
        ({"stable_frames": 0}, "stable_frames 0"),
        ({"max_range": 0.1}, "max_range 0.1: a number above 0.15"),
        ({"max_incidence": 90}, "below 90"),
        ({"noise": float("nan")}, "noise nan"),
        ({"aim": "best"}, "aim 'best'"),
        ({"order": "random"}, "order 'random'"),
        ({"reach_from": [0, 0]}, "reach_from"),
        ({"workspace": {"polygon": [[0, 0], [2, 2], [2, 0], [0, 2]]}}, "crosses itself"),
        ([], "an object with settings"),
    ],
)
def test_bad_settings(value, message):
    with pytest.raises(InputError, match=message):
        PickSettings.from_dict(value, "cell.json")
