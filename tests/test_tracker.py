import numpy as np
import pytest

import track_scenes
from cpr_deploy.files import InputError
from cpr_deploy.tracking.settings import TrackSettings, object_size
from cpr_deploy.tracking.tracker import PointTracker
from track_scenes import SIZE, judge, number_of_ids, result, straight_scene, track


def test_one_object_has_one_number_from_its_third_point_on():
    scene = straight_scene([[100, 100]], [[50, 0]], 30)
    tracks = track(scene.results())
    assert [len(frame) for frame in tracks[:4]] == [0, 0, 1, 1]
    assert {int(frame.ids[0]) for frame in tracks[2:]} == {1}
    assert all(frame.point_ids.tolist() == [1] for frame in tracks[2:])
    assert tracks[-1].ages[0] == pytest.approx(29 / 25)
    np.testing.assert_allclose(tracks[-1].positions[0], scene.points[-1][0], atol=0.2)
    np.testing.assert_allclose(tracks[-1].velocities[0], [50, 0], atol=2)


def test_numbers_live_through_misses():
    scene = track_scenes.crowd(40, 100)
    tracks = track(scene.results(miss=0.3, noise=1.5))
    found = judge(scene, tracks)
    assert found["num_switches"] == 0 and number_of_ids(tracks) == 40
    # What is found but for the frames before a track is one.
    assert found["mota"] > 0.65


def test_a_long_miss_is_predicted_then_ended():
    scene = straight_scene([[100, 100]], [[40, 10]], 120)
    results = scene.results()
    hidden = [r if not 30 <= k < 60 else result([]) for k, r in enumerate(results)]
    tracks = track(hidden)
    assert number_of_ids(tracks) == 1
    assert tracks[59].missed[0] == 30
    np.testing.assert_allclose(tracks[59].positions[0], scene.points[59][0], atol=2)
    gone = [r if not 30 <= k < 70 else result([]) for k, r in enumerate(results)]
    tracks = track(gone)
    assert len(tracks[66]) == 1 and len(tracks[67]) == 0  # 1.5 s after frame 29
    assert number_of_ids(tracks) == 2 and tracks[-1].ids.tolist() == [2]


@pytest.mark.parametrize("angle", [20, 45, 90, 180])
def test_crossing_objects_keep_their_numbers(angle):
    turn = np.deg2rad(angle)
    velocities = np.array([[60, 0], [60 * np.cos(turn), 60 * np.sin(turn)]])
    scene = straight_scene([[300, 200]] * 2 - velocities, velocities, 50)
    assert np.linalg.norm(scene.points[25][0] - scene.points[25][1]) < 1e-9
    for seed in range(5):
        tracks = track(scene.results(noise=0.5, seed=seed))
        found = judge(scene, tracks)
        assert found["num_switches"] == 0 and number_of_ids(tracks) == 2


def test_objects_that_meet_and_show_one_point_for_a_while():
    """Point NMS leaves one of two points that are close."""
    scene = straight_scene([[100, 100], [300, 104]], [[80, 0], [-80, 0]], 63)
    results = []
    for points in scene.points:
        close = np.linalg.norm(points[0] - points[1]) < SIZE / 2
        results.append(result(points.mean(axis=0) if close else points))
    tracks = track(results)
    assert number_of_ids(tracks) == 2
    assert judge(scene, tracks)["num_switches"] == 0


def test_births_and_deaths_are_counted_once():
    rng = np.random.default_rng(0)
    paths = {}
    for number in range(60):
        begin = int(rng.integers(0, 150))
        start = np.array([(number % 10) * 100 + 50, (number // 10) * 100 + 50.0])
        paths[number] = (begin, begin + int(rng.integers(20, 60)), start, rng.normal(size=2) * 10)
    ids, points = [], []
    for index in range(200):
        alive = [n for n, (first, last, *_) in paths.items() if first <= index < last]
        ids.append(np.array(alive, np.int64))
        points.append(
            np.array(
                [paths[n][2] + paths[n][3] * (index - paths[n][0]) / 25 for n in alive]
            ).reshape(-1, 2)
        )
    scene = track_scenes.Scene(ids, points)
    tracks = track(scene.results(miss=0.1, noise=1.0))
    assert number_of_ids(tracks) == 60
    assert judge(scene, tracks)["num_switches"] == 0
    assert max(int(frame.ids.max(initial=0)) for frame in tracks) == 60


def test_five_hundred_points():
    scene = track_scenes.crowd(500, 40, speed=15.0)
    tracks = track(scene.results(miss=0.05, noise=1.0))
    found = judge(scene, tracks)
    assert found["num_switches"] == 0 and number_of_ids(tracks) == 500


def test_false_points_become_no_tracks():
    rng = np.random.default_rng(0)
    results = [result(rng.random((3, 2)) * [1280, 720]) for _ in range(200)]
    assert number_of_ids(track(results)) <= 2


def test_camera_motion_of_any_kind_is_taken_out():
    rng = np.random.default_rng(0)
    scene = track_scenes.crowd(60, 60)
    shakes = [np.eye(3)]
    for _ in range(59):
        shake = np.eye(3) + rng.normal(size=(3, 3)) * [[0.02, 0.02, 30], [0.02, 0.02, 30], [0] * 3]
        shake[2, :2] = rng.normal(size=2) * 1e-5
        shakes.append(shake)
    moved = [move(shake, points) for shake, points in zip(shakes, scene.points, strict=True)]
    shaken = track_scenes.Scene(scene.ids, moved)
    motions = [None] + [b @ np.linalg.inv(a) for a, b in zip(shakes, shakes[1:], strict=False)]
    results = shaken.results(miss=0.1, noise=0.5)
    compensated = judge(shaken, track(results, motions=motions))
    assert compensated["num_switches"] == 0
    plain = judge(shaken, track(results))
    assert plain["mota"] < compensated["mota"] - 0.3


def move(homography, points):
    moved = np.c_[points, np.ones(len(points))] @ homography.T
    return moved[:, :2] / moved[:, 2:]


def test_weak_points_continue_tracks_and_begin_none():
    scene = straight_scene([[100, 100]], [[20, 0]], 60)
    weak = [result(points, score=0.35) for points in scene.points]
    assert number_of_ids(track(weak)) == 0
    strong_first = [result(p, score=0.9 if k < 5 else 0.35) for k, p in enumerate(scene.points)]
    tracks = track(strong_first)
    assert number_of_ids(tracks) == 1 and tracks[-1].missed[0] == 0
    # Below low_score they are nothing.
    too_weak = [result(p, score=0.9 if k < 5 else 0.25) for k, p in enumerate(scene.points)]
    assert len(track(too_weak)[-1]) == 0
    # A strong point is preferred to a nearer weak one.
    tracker = PointTracker(TrackSettings(SIZE), classes=1)
    for index in range(5):
        tracker.update(result([[50, 50]]), index / 25)
    both = result([[50, 50], [54, 50]])
    both.scores[0] = 0.4
    assert tracker.update(both, 0.2).point_ids.tolist() == [0, 1]


def test_the_class_is_voted():
    scene = straight_scene([[100, 100]], [[20, 0]], 20)
    labels = [1 if k % 4 else 0 for k in range(20)]
    results = [result(p, labels=[label]) for p, label in zip(scene.points, labels, strict=True)]
    tracks = track(results)
    assert number_of_ids(tracks) == 1
    assert all(frame.labels.tolist() == [1] for frame in tracks[4:])


def test_of_two_equal_points_the_one_of_its_class_is_taken():
    tracker = PointTracker(TrackSettings(SIZE), classes=2)
    for index in range(10):
        tracker.update(result([[100, 100]], labels=[1]), index / 25)
    tracks = tracker.update(result([[97, 100], [103, 100]], labels=[0, 1]), 0.4)
    assert tracks.point_ids.tolist() == [0, 1]


def test_a_track_of_a_moment_ago_beats_one_that_could_be_anywhere():
    """Greedy nearest, or distances over the uncertainty alone, give the point to the lost one."""
    tracker = PointTracker(TrackSettings(SIZE), classes=1)
    for index in range(20):
        both = [[100, 100], [120, 100]] if index < 5 else [[100, 100]]
        tracks = tracker.update(result(both), index / 25)
    assert tracks.missed.tolist() == [0, 15]
    tracks = tracker.update(result([[109, 100]]), 20 / 25)
    assert tracks.point_ids.tolist() == [1]


def test_positions_are_smoothed():
    scene = straight_scene([[100, 100]], [[30, 20]], 100)
    tracks = track(scene.results(noise=4.0))
    raw = np.array([r.points[0] for r in scene.results(noise=4.0)])[40:]
    smooth = np.array([frame.positions[0] for frame in tracks[40:]])
    true = np.array(scene.points)[40:, 0]
    assert np.abs(smooth - true).mean() < 0.5 * np.abs(raw - true).mean()


def test_reset_ends_tracks_and_goes_on_counting():
    tracker = PointTracker(TrackSettings(SIZE), classes=1)
    for index in range(5):
        first = tracker.update(result([[10, 10], [90, 90]]), index / 25)
    tracker.reset()
    for index in range(5):
        second = tracker.update(result([[10, 10], [90, 90]]), 100 - index)
    assert first.ids.tolist() == [1, 2] and second.ids.tolist() == [3, 4]


def test_times_that_stand_or_go_back_do_no_harm():
    tracker = PointTracker(TrackSettings(SIZE), classes=1)
    for seconds in (0.0, 0.04, 0.04, 0.0, 0.08, 0.12):
        tracks = tracker.update(result([[10, 10]]), seconds)
    assert tracks.ids.tolist() == [1] and np.isfinite(tracks.positions).all()


def test_empty_frames():
    tracks = track([result([])] * 5)
    assert all(len(frame) == 0 and len(frame.point_ids) == 0 for frame in tracks)


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"size": float("nan")}, {"keep": -1}, {"confirm": 0}, {"high_score": 2}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        TrackSettings(**{"size": 10, **bad})


def test_size_of_the_model():
    import dataclasses

    import spot_model
    from cpr_deploy.point_localizer import PointLocalizer

    spec = PointLocalizer(spot_model.model_bytes(), threads=1).spec
    assert object_size(spec) == 8.0  # twice its radius
    assert object_size(dataclasses.replace(spec, nms_rule="pseudo_box", nms_size=35.0)) == 35.0
    assert object_size(dataclasses.replace(spec, nms_rule="none")) is None
