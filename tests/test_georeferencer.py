"""Positions against closed forms, against points projected by pyproj and OpenCV, and the ellipse
against Monte Carlo."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import geo_parts
from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.geo import earth
from cpr_deploy.geo.codes import GeoRefusal
from cpr_deploy.geo.flight_path import Heights, Pose
from cpr_deploy.geo.georeferencer import (
    ELLIPSE_95,
    GeoReferencer,
    Sigmas,
    ellipses,
    sigmas_of,
)
from cpr_deploy.geo.ground import LevelGround

CENTRE = np.array([[1920.0, 1080.0]])  # the principal point, in our pixels


def sea(camera=geo_parts.PINHOLE, altitude=0.0, **settings):
    return GeoReferencer(camera, LevelGround(altitude, "msl"), **settings)


def offset(pose, found, index=0):
    """Azimuth and distance over ground from the camera to a position."""
    azimuth, _, metres = geo_parts.GEOD.inv(
        pose.longitude, pose.latitude, found.longitude[index], found.latitude[index]
    )
    return azimuth % 360, metres


@pytest.mark.parametrize(("latitude", "longitude"), [(54, 12), (-33, 151), (80, 180), (0, -180)])
def test_straight_down(latitude, longitude):
    pose = geo_parts.pose(latitude, longitude, 120, yaw=77)
    found = sea(altitude=20).locate(CENTRE, pose)
    assert offset(pose, found)[1] < 1e-6
    assert found.altitude[0] == pytest.approx(20, abs=1e-4)
    assert found.distance[0] == pytest.approx(100, abs=1e-4)


@pytest.mark.parametrize("yaw", [0, 90, 200, 315])
def test_45_degrees(yaw):
    pose = geo_parts.pose(54, 12, 100, yaw, -45)
    found = sea().locate(CENTRE, pose)
    azimuth, metres = offset(pose, found)
    # On a plane 100 m; the curvature adds 100^2 / 2R over tan 45, below 1 mm.
    assert metres == pytest.approx(100, abs=2e-3)
    assert (azimuth - yaw + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    assert found.distance[0] == pytest.approx(100 * 2**0.5, abs=2e-3)


def test_known_offsets_in_the_picture():
    """290 px right at f = 2900 px from 100 m: 10 m to the right of the flight's direction."""
    pose = geo_parts.pose(54, 12, 100, yaw=30)
    found = sea().locate(CENTRE + [[290, 0], [0, -290.5], [0, 290.5]], pose)
    for index, azimuth in enumerate((120, 30, 210)):
        assert offset(pose, found, index) == pytest.approx((azimuth, 10), abs=1e-3)


LENSES = [
    geo_parts.PINHOLE,
    CameraModel(3840, 2160, geo_parts.K, "plumb_bob", (-0.12, 0.05, 0.001, -0.0005, -0.01)),
]


@pytest.mark.parametrize("camera", LENSES)
def test_round_trip_through_pyproj_and_opencv(camera):
    """Places seen by OpenCV from random poses all over the Earth are found again."""
    rng = np.random.default_rng(1)
    corners = rng.uniform(200, 1900, (40, 2))
    checked = 0
    for _ in range(60):
        latitude = rng.choice([-80.0, -20, 0, 54, 80, 89.99]) + rng.uniform(-0.005, 0.005)
        longitude = rng.choice([-180.0, 0, 12, 180]) + rng.uniform(-0.001, 0.001)
        pose = geo_parts.pose(
            latitude,
            longitude,
            rng.uniform(60, 600),
            *rng.uniform([-180, -90, -15], [180, -25, 15]),
        )
        ground = rng.uniform(-20, 50)
        xy, truth = [], []
        for _ in corners:
            lon, lat, _ = geo_parts.GEOD.fwd(
                longitude, latitude, rng.uniform(0, 360), rng.uniform(0, 400)
            )
            seen = geo_parts.pixel_of(camera, pose, (lat, lon, ground))
            if seen is not None and (seen > 0).all() and (seen < [3840, 2160]).all():
                xy.append(seen)
                truth.append((lat, lon))
        if not xy:
            continue
        found = sea(camera, ground, sigmas=Sigmas(tilt=0.1)).locate(xy, pose)
        assert not any(found.codes)
        for lat, lon, (true_lat, true_lon) in zip(
            found.latitude, found.longitude, truth, strict=True
        ):
            assert geo_parts.GEOD.inv(lon, lat, true_lon, true_lat)[2] < 5e-3
        checked += len(xy)
    assert checked > 100


def test_far_away_the_curvature_counts():
    """20 km away the sea is 31 m below the tangent plane."""
    target = geo_parts.GEOD.fwd(12, 54, 60, 20_000)
    pose = geo_parts.pose(54, 12, 3000, 60, -9)
    seen = geo_parts.pixel_of(geo_parts.PINHOLE, pose, (target[1], target[0], 0.0))
    found = sea(max_range=30e3, sigmas=Sigmas(tilt=0.1)).locate([seen], pose)
    assert geo_parts.GEOD.inv(*target[:2], found.longitude[0], found.latitude[0])[2] < 0.1


def test_refusals():
    level = geo_parts.pose(54, 12, 100, 0, 0)
    found = sea().locate([[1920, 1000], [1920, 1082], [1920, 2100], [-1, 5], [np.nan, 5]], level)
    assert found.codes.tolist() == [
        GeoRefusal.ABOVE_HORIZON,
        GeoRefusal.ABOVE_HORIZON,  # below the level, above the horizon's dip
        None,
        GeoRefusal.OUTSIDE_IMAGE,
        GeoRefusal.OUTSIDE_IMAGE,
    ]
    assert np.isnan(found.latitude).tolist() == [True, True, False, True, True]
    assert np.isnan(found.semi_major).tolist() == [True, True, False, True, True]
    low = geo_parts.pose(54, 12, 100, 0, -10)
    assert sea(max_range=500).locate(CENTRE, low).codes.tolist() == [GeoRefusal.BEYOND_RANGE]
    assert sea(max_range=600).locate(CENTRE, low).codes.tolist() == [None]
    assert sea(altitude=101).locate(CENTRE, low).codes.tolist() == [GeoRefusal.BELOW_GROUND]
    # tan 10 degrees = 0.176; above 0.2 x that, 2.02 degrees of tilt are too many.
    for tilt, code in ((2.0, None), (2.05, GeoRefusal.GRAZING)):
        assert sea(sigmas=Sigmas(tilt=tilt)).locate(CENTRE, low).codes.tolist() == [code]
    fisheye = CameraModel(3840, 2160, geo_parts.K, "plumb_bob", (-0.9, 0, 0, 0, 0))
    assert sea(fisheye).locate([[5, 5]], low).codes.tolist() == [GeoRefusal.NO_RAY]
    assert len(sea().locate(np.empty((0, 2)), low)) == 0


def test_bad_settings():
    with pytest.raises(InputError, match="--max-range 0"):
        sea(max_range=0)
    with pytest.raises(InputError, match="--sigma tilt=-1"):
        Sigmas(tilt=-1)
    with pytest.raises(InputError, match="--sigma yaw: no such name; there are horizontal"):
        sigmas_of({"yaw": 1.0})


def test_heights_shift_positions_by_no_more_than_stated():
    """Altitudes above the take-off point at 2,000 m: places as with the true heights, within
    0.03 % of their distance."""
    target = geo_parts.pose(46, 8, 120, 45, -40)
    flat = GeoReferencer(geo_parts.PINHOLE, LevelGround(0, "takeoff")).locate(CENTRE, target)
    heights = Heights(takeoff=2000, undulation=50)
    high = GeoReferencer(geo_parts.PINHOLE, LevelGround(0, "takeoff"), heights).locate(
        CENTRE, target
    )
    assert high.altitude[0] == pytest.approx(0, abs=0.02) and high.reference == "takeoff"
    away = geo_parts.GEOD.inv(
        flat.longitude[0], flat.latitude[0], high.longitude[0], high.latitude[0]
    )[2]
    assert 0.01 < away < 143 * 2050 / 6.36e6 * 1.1


# --- uncertainty ---


def test_ellipse_of_a_place_error_alone():
    sigmas = Sigmas(horizontal=2, altitude=0, ground=0, tilt=0, heading=0, pixel=0)
    found = sea(sigmas=sigmas).locate(CENTRE, geo_parts.pose(54, 12, 100, 30, -60))
    # 95 % of a circular normal distribution are within 2.4477 sigma.
    assert (found.semi_major[0], found.semi_minor[0]) == pytest.approx((4.8955, 4.8955), abs=1e-3)


def test_ellipse_of_an_altitude_error_alone():
    """At 45 degrees 3 m of altitude are 3 m along the line of sight's direction, none across."""
    sigmas = Sigmas(horizontal=0, altitude=3, ground=0, tilt=0, heading=0, pixel=0)
    found = sea(sigmas=sigmas).locate(CENTRE, geo_parts.pose(54, 12, 100, 30, -45))
    assert found.semi_major[0] == pytest.approx(3 * ELLIPSE_95, rel=1e-4)
    assert found.semi_minor[0] < 1e-2 and found.azimuth[0] == pytest.approx(30, abs=0.01)


def test_ellipse_of_a_heading_error_alone():
    sigmas = Sigmas(horizontal=0, altitude=0, ground=0, tilt=0, heading=2, pixel=0)
    found = sea(sigmas=sigmas).locate(CENTRE, geo_parts.pose(54, 12, 100, 30, -45))
    assert found.semi_major[0] == pytest.approx(100 * np.radians(2) * ELLIPSE_95, rel=1e-4)
    assert found.azimuth[0] == pytest.approx(120, abs=0.01)


def test_ellipses_against_eigenvectors():
    rng = np.random.default_rng(2)
    half = rng.normal(size=(200, 2, 2))
    covariance = half @ half.transpose(0, 2, 1)
    major, minor, azimuth = ellipses(covariance)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(np.column_stack([minor, major]), ELLIPSE_95 * np.sqrt(values))
    expected = np.degrees(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1])) % 180
    np.testing.assert_allclose((azimuth - expected + 90) % 180 - 90, 0, atol=1e-6)


CASES = {
    "down": ((0, -90, 0), Sigmas(), (0, 0)),
    "oblique": ((30, -40, 3), Sigmas(), (900, -500)),
    "compass": ((200, -35, 0), Sigmas(heading=5, tilt=0.3), (-700, 300)),
    "blurred": ((10, -60, 0), Sigmas(horizontal=0.1, altitude=0.1, pixel=25), (1500, 900)),
    "flat": ((30, -17, 0), Sigmas(tilt=2.0), (0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_coverage_of_the_ellipse(name):
    """Of 400 measurements with random errors, 90 to 98 % have the truth in their ellipse."""
    angles, sigmas, shift = CASES[name]
    camera, trials = LENSES[1], 400
    rng = np.random.default_rng(sum(map(ord, name)))
    truth = geo_parts.pose(54, 12, 100, *angles)
    pixel = CENTRE[0] + shift
    exact = sea(camera, sigmas=sigmas).locate([pixel], truth)
    target = exact.latitude[0], exact.longitude[0]
    # The errors in NED: tilt about north and east, heading about down.
    turns = np.radians(rng.normal(size=(trials, 3)) * [sigmas.tilt, sigmas.tilt, sigmas.heading])
    away = rng.normal(size=(trials, 2)) * sigmas.horizontal
    rise = rng.normal(size=trials) * sigmas.altitude
    level = rng.normal(size=trials) * sigmas.ground
    blur = rng.normal(size=(trials, 2)) * sigmas.pixel
    inside = 0
    for turn, (north, east), up, ground, noise in zip(turns, away, rise, level, blur, strict=True):
        lon, lat, _ = geo_parts.GEOD.fwd(
            12, 54, np.degrees(np.arctan2(east, north)), np.hypot(east, north)
        )
        measured = Pose(
            lat, lon, 100 + up, Rotation.from_rotvec(turn).as_matrix() @ truth.ned_from_camera
        )
        found = sea(camera, ground, sigmas=sigmas).locate([pixel + noise], measured)
        azimuth, _, metres = geo_parts.GEOD.inv(
            found.longitude[0], found.latitude[0], target[1], target[0]
        )
        turned = np.radians(azimuth - found.azimuth[0])
        inside += (
            np.hypot(
                metres * np.cos(turned) / found.semi_major[0],
                metres * np.sin(turned) / found.semi_minor[0],
            )
            <= 1
        )
    assert 0.90 < inside / trials < 0.98


# --- footprints, and the Earth ---


def test_footprint_is_where_the_corners_are():
    pose = geo_parts.pose(54, 12, 100, 20, -70)
    outline = sea().footprint(pose)
    assert len(outline) == 24
    for index, corner in zip(
        (0, 6, 12, 18), [(0, 0), (3840, 0), (3840, 2160), (0, 2160)], strict=True
    ):
        found = sea().locate([corner], pose)
        assert outline[index] == pytest.approx([found.latitude[0], found.longitude[0]], abs=1e-9)


def test_footprint_with_the_horizon_ends_at_the_range():
    pose = geo_parts.pose(54, 12, 100, 20, -10)
    outline = sea(max_range=1000).footprint(pose)
    away = [geo_parts.GEOD.inv(12, 54, lon, lat)[2] for lat, lon in outline]
    assert max(away) == pytest.approx(1000, abs=6) and min(away) < 250
    assert sea().footprint(geo_parts.pose(54, 12, 100, 20, 40)) is None


def test_ecef_and_axes_against_pyproj():
    rng = np.random.default_rng(3)
    places = rng.uniform([-90, -180, -100], [90, 180, 5000], (50, 3))
    for latitude, longitude, height in places:
        xyz = earth.to_ecef(latitude, longitude, height)
        np.testing.assert_allclose(xyz, geo_parts.ecef(latitude, longitude, height), atol=1e-6)
        back = earth.to_geodetic(xyz)
        np.testing.assert_allclose(back, [latitude, longitude, height], atol=1e-6)
        ned = geo_parts.ned_axes(latitude, longitude)
        np.testing.assert_allclose(
            earth.enu_axes(latitude, longitude), [ned[1], ned[0], -ned[2]], atol=1e-8
        )


@pytest.mark.parametrize("module", ["pyproj", "rasterio"])
def test_a_library_that_is_not_there(monkeypatch, module):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"needs {module}.*cpr-point-localization\[geo\]"):
        earth.require(module)


def test_outline_of_an_ellipse():
    lat, lon = earth.ellipse_outline(80.0, 179.9999, 30, 10, 25)
    azimuth, _, away = geo_parts.GEOD.inv(np.full(48, 179.9999), np.full(48, 80.0), lon, lat)
    turned = np.radians(np.array(azimuth) - 25)
    np.testing.assert_allclose(
        np.hypot(away * np.cos(turned) / 30, away * np.sin(turned) / 10), 1, atol=1e-6
    )
    # Counter-clockwise: against the compass.
    assert (np.diff(np.unwrap(np.radians(azimuth))) < 0).all()


def test_a_distorted_ray_step_is_what_opencv_says():
    camera = LENSES[1]
    referencer = sea(camera)
    xy = np.array([[300.0, 200], [1920, 1080], [3700, 2000]])
    rays = camera.rays(xy)
    right, down = referencer._ray_steps(rays)
    for shift, step in (((0.5, 0), right), ((0, 0.5), down)):
        ends = [
            cv2.undistortPoints(
                (xy - 0.5 + side * np.array(shift))[:, None], camera.k, np.array(camera.d)
            ).reshape(-1, 2)
            for side in (-1, 1)
        ]
        np.testing.assert_allclose(step[:, :2], ends[1] - ends[0], atol=2e-8)
