"""Poses between samples, and what is refused."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo import attitude
from cpr_deploy.geo.codes import GeoRefusal
from cpr_deploy.geo.flight_path import FlightPath, Heights, PathSettings
from cpr_deploy.geo.telemetry import from_rows


def rows(times, **fields):
    """Samples; a field is one value for all or one for each."""
    base = {"latitude": 54.0, "longitude": 12.0, "altitude_msl": 100.0}
    base |= {"gimbal_yaw": 0.0, "gimbal_pitch": -90.0, **fields}
    return [
        {"time": t} | {k: (v[i] if isinstance(v, list) else v) for k, v in base.items()}
        for i, t in enumerate(times)
    ]


def path(samples, reference="msl", heights=None, absolute=True, **settings):
    telemetry = from_rows("t.csv", "video", samples, gimbal_absolute=absolute)
    return FlightPath(telemetry, reference, heights, PathSettings(**settings))


def codes(flight, times):
    return [found if isinstance(found, GeoRefusal) else None for found in flight.at(times)]


# --- attitude ---


def test_angles_are_as_in_scipy_and_back():
    angles = np.random.default_rng(0).uniform([-180, -89, -180], [180, 89, 180], (500, 3))
    expected = Rotation.from_euler("ZYX", angles, degrees=True).as_matrix()
    np.testing.assert_allclose(attitude.rotation_of(angles), expected, atol=1e-12)
    np.testing.assert_allclose(attitude.angles_of(expected), angles, atol=1e-8)


@pytest.mark.parametrize("pitch", [-90, 90])
def test_straight_down_yaw_and_roll_are_one(pitch):
    turned = attitude.rotation_of(np.array([30.0, pitch, 0.0]))
    np.testing.assert_allclose(attitude.angles_of(turned), [30, pitch, 0], atol=1e-6)
    both = attitude.rotation_of(np.array([30.0, pitch, 100.0]))
    yaw, tilt, roll = attitude.angles_of(both)
    assert roll == 0 and tilt == pytest.approx(pitch, abs=1e-6)
    np.testing.assert_allclose(attitude.rotation_of(np.array([yaw, tilt, 0])), both, atol=1e-7)


@pytest.mark.parametrize(
    ("angles", "sight", "top"),
    [
        ((0, 0, 0), [1, 0, 0], [0, 0, -1]),  # north, the picture's top is up
        ((90, 0, 0), [0, 1, 0], [0, 0, -1]),
        ((0, -90, 0), [0, 0, 1], [1, 0, 0]),  # down, the top is north
        ((90, -90, 0), [0, 0, 1], [0, 1, 0]),
        ((0, 0, 90), [1, 0, 0], [0, 1, 0]),  # rolled right: the top is east
        ((180, -45, 0), [-(0.5**0.5), 0, 0.5**0.5], [-(0.5**0.5), 0, -(0.5**0.5)]),
    ],
)
def test_where_a_camera_looks(angles, sight, top):
    turned = attitude.rotation_of(np.array(angles, float)) @ attitude.BODY_FROM_OPTICAL
    np.testing.assert_allclose(turned @ [0, 0, 1], sight, atol=1e-12)
    np.testing.assert_allclose(turned @ [0, -1, 0], top, atol=1e-12)


# --- interpolation ---


def test_places_and_altitudes():
    end = geo_parts.GEOD.fwd(12, 54, 90, 20)
    flight = path(
        rows([0, 1], latitude=[54.0, end[1]], longitude=[12.0, end[0]], altitude_msl=[100.0, 110.0])
    )
    (pose,) = flight.at([0.25])
    _, _, away = geo_parts.GEOD.inv(12, 54, pose.longitude, pose.latitude)
    assert away == pytest.approx(5, abs=1e-4) and pose.altitude == pytest.approx(102.5)


@pytest.mark.parametrize(("latitude", "longitude"), [(0, 180), (80, 180), (89.9999, 0), (-90, 50)])
def test_across_the_antimeridian_and_poles(latitude, longitude):
    ends = [geo_parts.GEOD.fwd(longitude, latitude, azimuth, 15) for azimuth in (70, 250)]
    flight = path(rows([0, 1], latitude=[e[1] for e in ends], longitude=[e[0] for e in ends]))
    (pose,) = flight.at([0.5])
    _, _, away = geo_parts.GEOD.inv(longitude, latitude, pose.longitude, pose.latitude)
    assert away < 1e-3


@pytest.mark.parametrize(
    ("first", "second", "middle"),
    [
        ((359, 0, 0), (1, 0, 0), 0),
        ((-179, -30, 0), (179, -30, 0), 180),
        ((10, 0, 0), (50, 0, 0), 30),
    ],
)
def test_angles_are_circular(first, second, middle):
    flight = path(
        rows(
            [0, 1],
            gimbal_yaw=[first[0], second[0]],
            gimbal_pitch=[first[1], second[1]],
        )
    )
    (pose,) = flight.at([0.5])
    assert (pose.angles()[0] - middle + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)
    expected = Slerp([0, 1], Rotation.from_euler("ZYX", [first, second], degrees=True))(0.5)
    np.testing.assert_allclose(
        pose.ned_from_camera, expected.as_matrix() @ attitude.BODY_FROM_OPTICAL, atol=1e-12
    )


def test_a_gimbal_that_names_straight_down_in_two_ways():
    """Yaw 0, roll 0 and yaw 180, roll 180 just past the pole: hardly anything turned."""
    flight = path(
        rows([0, 1], gimbal_yaw=[0.0, 180.0], gimbal_pitch=[-89.9, -89.9], gimbal_roll=[0.0, 180.0])
    )
    (pose,) = flight.at([0.5])
    np.testing.assert_allclose(pose.ned_from_camera @ [0, 0, 1], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(pose.ned_from_camera @ [0, -1, 0], [1, 0, 0], atol=1e-6)


def test_a_gimbal_on_a_platform():
    samples = rows([0, 1], platform_yaw=90.0, platform_pitch=10.0, platform_roll=5.0)
    samples = [{**row, "gimbal_yaw": 20.0, "gimbal_pitch": -30.0} for row in samples]
    (pose,) = path(samples, absolute=False).at([0.0])
    expected = (
        Rotation.from_euler("ZYX", [90, 10, 5], degrees=True)
        * Rotation.from_euler("ZYX", [20, -30, 0], degrees=True)
    ).as_matrix()
    np.testing.assert_allclose(pose.ned_from_camera, expected @ attitude.BODY_FROM_OPTICAL)
    # The user may know better than the file; and fix a camera to the platform.
    (pose,) = path(samples, absolute=False, gimbal="absolute").at([0.0])
    np.testing.assert_allclose(pose.angles(), [20, -30, 0], atol=1e-9)
    (pose,) = path(
        samples, gimbal="relative", fixed={"gimbal_yaw": 0, "gimbal_pitch": 0, "gimbal_roll": 0}
    ).at([0.0])
    np.testing.assert_allclose(pose.angles(), [90, 10, 5], atol=1e-9)


# --- refusals ---


def test_gaps_and_ends():
    flight = path(rows([0, 1, 2, 10, 11, 12]))
    expected = {
        -0.1: None,  # within one usual interval of an end, and a tenth of a second
        -0.2: GeoRefusal.OUTSIDE_TELEMETRY,
        1.5: None,
        2.0: None,
        2.5: GeoRefusal.GAP,
        9.9: GeoRefusal.GAP,
        10.0: None,
        12.1: None,
        12.2: GeoRefusal.OUTSIDE_TELEMETRY,
        float("nan"): GeoRefusal.NO_TIME,
    }
    assert codes(flight, list(expected)) == list(expected.values())
    assert codes(path(rows([0, 0.03, 0.06])), [0.09, 0.1]) == [None, GeoRefusal.OUTSIDE_TELEMETRY]
    assert codes(path(rows([0, 1, 2, 10, 11]), max_gap=8), [5.0]) == [None]


def test_time_that_comes_twice():
    """The clock jumps back from 5 to 3: what happened between cannot be told."""
    flight = path(rows([0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]))
    found = codes(flight, [1.5, 2.5, 3.0, 4.2, 5.0, 5.5, 6.5])
    twice = GeoRefusal.TIME_JUMP
    assert found[0] is None and found[2:5] == [twice] * 3 and found[6] is None
    # Next to it, samples are missing.
    assert found[1] is GeoRefusal.GAP and found[5] is GeoRefusal.GAP


def test_a_clock_of_whole_seconds():
    flight = path(rows([0, 0, 0, 1, 1, 1, 2, 2], altitude_msl=[0.0, 3, 6, 10, 13, 16, 20, 23]))
    assert [pose.altitude for pose in flight.at([0.0, 0.5, 1.0])] == [0, 5, 10]


def test_values_that_samples_lack():
    nan = float("nan")
    flight = path(
        rows(
            [0, 1, 2, 3, 4, 5, 6, 7, 8],
            latitude=[54.0, 0, 0, 0, 54, 54, 54, 54, 54],
            longitude=[12.0, 0, 0, 0, 12, 12, 12, 12, 12],
            altitude_msl=[1.0, 1, 1, 1, 1, nan, nan, nan, 1],
            gimbal_yaw=[0.0, nan, 0, 0, 0, 0, 0, 0, 0],
        )
    )
    # A sample that lacks one value between two that have it is no gap.
    assert codes(flight, [0.0, 2.0, 4.0, 6.5, 8.0]) == [
        None,
        GeoRefusal.NO_FIX,
        None,
        GeoRefusal.NO_ALTITUDE,
        None,
    ]
    flight = path(rows([0, 1, 2, 3, 4], gimbal_pitch=[-90.0, nan, nan, nan, -90]))
    assert codes(flight, [0.0, 2.0]) == [None, GeoRefusal.NO_ATTITUDE]


@pytest.mark.parametrize(
    ("samples", "settings", "words"),
    [
        (rows([0, 1], latitude=0.0, longitude=0.0), {}, "no sample knows its position"),
        (rows([0, 1], gimbal_yaw=float("nan")), {}, "no gimbal_yaw"),
        (rows([0, 1]), {"gimbal": "relative"}, "no platform_yaw, platform_pitch"),
        (rows([3, 2, 1]), {}, "only runs backwards"),
    ],
)
def test_telemetry_that_is_of_no_use(samples, settings, words):
    with pytest.raises(InputError, match=words):
        path(samples, **settings)


# --- altitudes ---


def altitude(heights, reference, **fields):
    samples = rows([0, 1], **{"altitude_msl": float("nan"), **fields})
    return path(samples, reference, heights).at([0.0])[0].altitude


def test_altitudes_are_converted():
    both = {"altitude_relative": 60.0, "altitude_msl": 172.0}
    assert altitude(None, "takeoff", **both) == 60 and altitude(None, "msl", **both) == 172
    # Take-off at 110 m above the sea, the geoid 37 m above the ellipsoid.
    heights = Heights(takeoff=110, undulation=37)
    assert altitude(heights, "msl", **both) == 170, "the barometer's, as its zero is known"
    assert altitude(heights, "ellipsoid", **both) == 207
    assert altitude(Heights(source="msl", takeoff=110), "takeoff", **both) == 62
    assert altitude(Heights(undulation=37), "msl", altitude_ellipsoid=200.0) == 163
    assert altitude(Heights(source="msl"), "msl", altitude=88.0) == 88


@pytest.mark.parametrize(
    ("heights", "reference", "fields", "words"),
    [
        (None, "msl", {"altitude": 88.0}, "Declare it: --altitude"),
        (None, "msl", {"altitude_relative": 60.0}, "--takeoff-altitude M"),
        (None, "ellipsoid", {"altitude_relative": 60.0}, "--takeoff-altitude M .* and --geoid M"),
        (None, "msl", {"altitude_ellipsoid": 60.0}, "--geoid M"),
        (Heights(source="msl"), "msl", {"altitude_relative": 6.0}, "no altitude above msl; it has"),
        (None, "msl", {}, "has no altitude"),
    ],
)
def test_altitudes_that_cannot_be_converted(heights, reference, fields, words):
    with pytest.raises(InputError, match=words):
        altitude(heights, reference, **fields)
