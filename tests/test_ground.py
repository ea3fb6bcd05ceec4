"""Elevation models made here, of which every altitude is known."""

import numpy as np
import pytest
import rasterio
from rasterio import Affine

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo import earth
from cpr_deploy.geo.codes import GeoRefusal
from cpr_deploy.geo.georeferencer import GeoReferencer, Sigmas
from cpr_deploy.geo.ground import ElevationModel, LevelGround

CENTRE = [[1920.0, 1080.0]]
# UTM zone 33 north, 10 m cells; the middle is at 54 N 12 E.
EAST, NORTH = 303_350.0, 5_987_500.0


def write(path, values, transform=None, crs="EPSG:32633", **fields):
    transform = transform or Affine(10, 0, EAST - 2000, 0, -10, NORTH + 2000)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype="float32",
        crs=crs,
        transform=transform,
        **fields,
    ) as file:
        file.write(values.astype(np.float32), 1)
    return path


def eastings(transform=None):
    """Altitudes are made of these: x and y of the cells' centres, (400, 400)."""
    x = EAST - 2000 + 10 * (np.arange(400) + 0.5)
    y = NORTH + 2000 - 10 * (np.arange(400) + 0.5)
    return np.meshgrid(x, y)


def place(x, y):
    from pyproj import Transformer

    lon, lat = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(x, y)
    return lat, lon


def model(tmp_path, values, **fields):
    return ElevationModel(write(tmp_path / "dem.tif", values, **fields))


def test_bilinear_between_centres(tmp_path):
    x, y = eastings()
    dem = model(tmp_path, (x - EAST) * 0.1 + (y - NORTH) * 0.02 + 50)
    rng = np.random.default_rng(0)
    at = rng.uniform(-1900, 1900, (200, 2))
    lat, lon = place(EAST + at[:, 0], NORTH + at[:, 1])
    np.testing.assert_allclose(dem.altitude(lat, lon), at @ [0.1, 0.02] + 50, atol=2e-4)
    outside = dem.altitude(*place(np.array([EAST - 2001.0, EAST]), np.array([NORTH, NORTH + 2001])))
    assert np.isnan(outside).all()


@pytest.mark.parametrize("altitude", [0.0, 137.5])
def test_a_level_model_is_a_level_ground(tmp_path, altitude):
    lat, lon = place(EAST, NORTH)
    dem = model(tmp_path, np.full((400, 400), altitude))
    rng = np.random.default_rng(1)
    xy = rng.uniform([0, 0], [3840, 2160], (200, 2))
    pose = geo_parts.pose(lat, lon, altitude + 150, 33, -50, 5)
    sigmas = Sigmas(tilt=0.1)
    one = GeoReferencer(geo_parts.PINHOLE, dem, sigmas=sigmas).locate(xy, pose)
    other = GeoReferencer(geo_parts.PINHOLE, LevelGround(altitude, "msl"), sigmas=sigmas).locate(
        xy, pose
    )
    assert one.codes.tolist() == other.codes.tolist() == [None] * 200
    away = geo_parts.GEOD.inv(one.longitude, one.latitude, other.longitude, other.latitude)[2]
    assert np.max(away) < 0.02
    np.testing.assert_allclose(one.semi_major, other.semi_major, rtol=1e-3)


def test_a_slope_in_closed_form(tmp_path):
    """Ground that rises 1 in 2 to the east; a camera 200 m above looks east, 45 degrees down: the
    ray is at height 200 - d, the ground at d / 2, so they meet at d = 133.3 m."""
    x, _ = eastings()
    lat, lon = place(EAST, NORTH)
    dem = model(tmp_path, (x - EAST) * 0.5 + 500)
    # East of the grid is not exactly east on the Earth.
    further = place(EAST + 100, NORTH)
    azimuth = geo_parts.GEOD.inv(lon, lat, further[1], further[0])[0]
    pose = geo_parts.pose(lat, lon, 700, azimuth, -45)
    found = GeoReferencer(geo_parts.PINHOLE, dem).locate(CENTRE, pose)
    metres = geo_parts.GEOD.inv(lon, lat, found.longitude[0], found.latitude[0])[2]
    # The grid's scale is 0.9996 .. 1.0002 here.
    assert metres == pytest.approx(400 / 3, abs=0.1)
    assert found.altitude[0] == pytest.approx(500 + 200 / 3, abs=0.1)
    # 3 m of the camera's altitude move the hit by 3 / 1.5 = 2 m east and 1 m up.
    sigmas = Sigmas(horizontal=0, altitude=3, ground=0, tilt=0, heading=0, pixel=0)
    found = GeoReferencer(geo_parts.PINHOLE, dem, sigmas=sigmas).locate(CENTRE, pose)
    assert np.sqrt(np.linalg.eigvalsh(found.covariance[0, :2, :2])[1]) == pytest.approx(2, abs=0.01)
    assert np.sqrt(found.covariance[0, 2, 2]) == pytest.approx(1, abs=0.01)


def test_the_first_hill_hides_the_ground_behind(tmp_path):
    """A wall 60 m high, 300 m to the north; the ray would meet the plain at 400 m."""
    _, y = eastings()
    values = np.where(np.abs(y - NORTH - 300) < 20, 60.0, 0.0)
    lat, lon = place(EAST, NORTH)
    dem = model(tmp_path, values)
    further = place(EAST, NORTH + 100)
    azimuth = geo_parts.GEOD.inv(lon, lat, further[1], further[0])[0]
    pose = geo_parts.pose(lat, lon, 100, azimuth, -np.degrees(np.arctan(0.25)))
    found = GeoReferencer(geo_parts.PINHOLE, dem).locate(CENTRE, pose)
    metres = geo_parts.GEOD.inv(lon, lat, found.longitude[0], found.latitude[0])[2]
    # Between the last centre of the plain (275 m) and the first of the wall (285 m).
    assert 274 < metres < 286
    over = geo_parts.pose(lat, lon, 170, azimuth, -np.degrees(np.arctan(0.25)))
    found = GeoReferencer(geo_parts.PINHOLE, dem).locate(CENTRE, over)
    metres = geo_parts.GEOD.inv(lon, lat, found.longitude[0], found.latitude[0])[2]
    assert metres == pytest.approx(680, abs=1)


def test_against_a_dense_march(tmp_path):
    """Rough terrain: each hit is the first place where a ray sampled every 5 cm is below it."""
    x, y = eastings()
    values = 20 * np.sin((x - EAST) / 70) * np.cos((y - NORTH) / 90)
    dem = model(tmp_path, values)
    lat, lon = place(EAST, NORTH)
    pose = geo_parts.pose(lat, lon, 120, 100, -30)
    xy = np.random.default_rng(2).uniform([0, 600], [3840, 2160], (25, 2))
    found = GeoReferencer(geo_parts.PINHOLE, dem, sigmas=Sigmas(tilt=0.01)).locate(xy, pose)
    start = geo_parts.ecef(lat, lon, 120)
    axes = geo_parts.ned_axes(lat, lon)
    for ray, distance, code in zip(
        geo_parts.PINHOLE.rays(xy), found.distance, found.codes, strict=True
    ):
        sight = axes.T @ pose.ned_from_camera @ ray
        along = np.arange(0, 900, 0.05)
        at = start + along[:, None] * sight / np.linalg.norm(sight)
        latitude, longitude, height = earth.to_geodetic(at)
        below = np.flatnonzero(height < dem.altitude(latitude, longitude))
        assert code is None
        assert distance == pytest.approx(along[below[0]], abs=0.06)


def test_refusals(tmp_path):
    x, _ = eastings()
    values = np.where(x > EAST + 1000, np.nan, 0.0)
    lat, lon = place(EAST, NORTH)
    dem = model(tmp_path, np.where(np.isnan(values), -9999, values), nodata=-9999)
    assert np.isnan(dem.altitude(*place(np.array([EAST + 1500.0]), np.array([NORTH]))))

    def code(height, yaw, pitch, max_range=5000.0):
        referencer = GeoReferencer(
            geo_parts.PINHOLE, dem, sigmas=Sigmas(tilt=0.01), max_range=max_range
        )
        return referencer.locate(CENTRE, geo_parts.pose(lat, lon, height, yaw, pitch)).codes[0]

    assert code(100, 0, -60) is None
    assert code(100, 0, 5) is GeoRefusal.ABOVE_HORIZON
    assert code(-3, 0, -60) is GeoRefusal.BELOW_GROUND
    assert code(100, 90, -3) is GeoRefusal.OUTSIDE_ELEVATION  # 1.9 km away: no value there
    assert code(100, 0, -2) is GeoRefusal.OUTSIDE_ELEVATION  # 2.9 km: beyond the model's edge
    assert code(100, 0, -6, max_range=500) is GeoRefusal.BEYOND_RANGE


def test_rays_that_rise_from_between_hills(tmp_path):
    """A camera lower than the highest ground: a slope is hit looking up, the sky is not."""
    _, y = eastings()
    lat, lon = place(EAST, NORTH)
    dem = model(tmp_path, np.clip((y - NORTH - 200) * 0.5, 0, 150))
    referencer = GeoReferencer(geo_parts.PINHOLE, dem)
    further = place(EAST, NORTH + 100)
    north = geo_parts.GEOD.inv(lon, lat, further[1], further[0])[0]
    found = referencer.locate(CENTRE, geo_parts.pose(lat, lon, 50, north, 5))
    # 50 + d tan 5 = (d - 200) / 2 at d = 363.6 m.
    metres = geo_parts.GEOD.inv(lon, lat, found.longitude[0], found.latitude[0])[2]
    assert metres == pytest.approx(150 / (0.5 - np.tan(np.radians(5))), abs=1)
    for yaw, pitch in ((north, 30), (north + 180, 5)):
        found = referencer.locate(CENTRE, geo_parts.pose(lat, lon, 50, yaw, pitch))
        assert found.codes[0] is GeoRefusal.ABOVE_HORIZON
    # Over the highest ground the model need not reach as far as the camera.
    lat, lon = place(EAST, NORTH - 2500)
    found = referencer.locate(CENTRE, geo_parts.pose(lat, lon, 1000, north, -40))
    assert found.codes[0] is None and found.altitude[0] == pytest.approx(0, abs=0.01)
    found = referencer.locate(CENTRE, geo_parts.pose(lat, lon, 100, north, -10))
    assert found.codes[0] is GeoRefusal.OUTSIDE_ELEVATION


def test_degrees_across_the_antimeridian(tmp_path):
    """A model in degrees from 179.9 to 180.1 east."""
    step = 0.0005
    values = np.full((400, 400), 30.0)
    values[:, 200:] = 60.0  # east of the antimeridian
    transform = Affine(step, 0, 179.9, 0, -step, 54.1)
    dem = ElevationModel(write(tmp_path / "a.tif", values, transform, "EPSG:4326"))
    assert dem.altitude(np.array([54.0] * 3), np.array([179.95, -179.95, 0.0])).tolist()[:2] == [
        30,
        60,
    ]
    pose = geo_parts.pose(54, 179.999, 200, 90, -45)
    found = GeoReferencer(geo_parts.PINHOLE, dem).locate(CENTRE, pose)
    assert found.altitude[0] == pytest.approx(60, abs=0.01) and found.longitude[0] < -179.99


def test_files_that_are_no_elevation_model(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ElevationModel(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("x")
    with pytest.raises(InputError, match="cannot be read as a raster"):
        ElevationModel(tmp_path / "text.tif")
    with pytest.raises(InputError, match="no coordinate system"):
        ElevationModel(write(tmp_path / "bare.tif", np.zeros((4, 4)), crs=None))
    with pytest.raises(InputError, match="no valid cell"):
        ElevationModel(write(tmp_path / "void.tif", np.full((4, 4), -1.0), nodata=-1))
