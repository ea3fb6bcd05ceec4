import numpy as np
import pyproj
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.tracking.smoothing import metres_per_degree, smooth_geo, smooth_path


def least_squares_path(seconds, positions, noise, acceleration):
    """The most likely path, by solving for all positions and velocities at once."""
    count = len(seconds)
    rows, values = [], []
    for k in range(count):
        row = np.zeros(2 * count)
        row[2 * k] = 1 / noise
        rows.append(row)
        values.append(positions[k] / noise)
    for k, step in enumerate(np.diff(seconds)):
        wander = acceleration**2 * np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        whiten = np.linalg.inv(np.linalg.cholesky(wander))
        move = np.zeros((2, 2 * count))
        move[:, 2 * k : 2 * k + 2] = -np.array([[1, step], [0, 1]])
        move[:, 2 * k + 2 : 2 * k + 4] = np.eye(2)
        rows += list(whiten @ move)
        values += [0.0, 0.0]
    return np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][::2]


def test_it_is_the_most_likely_path():
    rng = np.random.default_rng(0)
    seconds = np.cumsum(rng.uniform(0.02, 0.5, 40))
    positions = np.cumsum(rng.normal(size=(40, 1)), axis=0) + rng.normal(size=(40, 1))
    found = smooth_path(seconds, positions, noise=0.8, acceleration=1.5)
    true = least_squares_path(seconds, positions[:, 0], 0.8, 1.5)
    np.testing.assert_allclose(found[:, 0], true, atol=5e-3)


def test_it_comes_nearer_to_the_truth():
    rng = np.random.default_rng(1)
    seconds = np.arange(200) / 25
    true = np.stack([3 * seconds, 2 * np.sin(seconds)], axis=1)
    noisy = true + 0.5 * rng.normal(size=true.shape)
    smooth = smooth_path(seconds, noisy, noise=0.5, acceleration=1.0)
    before, after = (np.linalg.norm(way - true, axis=1).mean() for way in (noisy, smooth))
    assert after < 0.35 * before


def test_few_points_and_standing_clocks():
    one = np.array([[1.0, 2.0]])
    assert (smooth_path(np.array([5.0]), one, noise=1, acceleration=1) == one).all()
    both = smooth_path(np.zeros(2), np.array([[0.0], [2.0]]), noise=1, acceleration=1)
    np.testing.assert_allclose(both, [[1.0], [1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "positions", "noise"),
    [([1, 0], [[0], [0]], 1), ([0, 1], [[0], [np.nan]], 1), ([0, 1], [[0], [0]], 0)],
)
def test_bad_input(seconds, positions, noise):
    with pytest.raises(InputError, match="smoothing: "):
        smooth_path(np.array(seconds), np.array(positions, float), noise=noise, acceleration=1)


@pytest.mark.parametrize("latitude", [-70.0, -10.0, 0.0, 47.3, 84.0])
def test_metres_of_a_degree(latitude):
    geod = pyproj.Geod(ellps="WGS84")
    north = geod.inv(8.0, latitude - 0.001, 8.0, latitude + 0.001)[2] / 0.002
    east = geod.inv(8.0, latitude, 8.001, latitude)[2] / 0.001
    np.testing.assert_allclose(metres_per_degree(latitude), [north, east], rtol=1e-7)


@pytest.mark.parametrize("longitude", [8.5, 179.9999])
def test_positions_on_the_earth(longitude):
    geod = pyproj.Geod(ellps="WGS84")
    rng = np.random.default_rng(2)
    records, true = [], {}
    for k in range(100):
        for track, azimuth in ((1, 60.0), (2, 200.0)):
            lon, lat, _ = geod.fwd(longitude, 47.3, azimuth, 1.5 * k)
            true[track, k] = (lon, lat)
            lon, lat, _ = geod.fwd(lon, lat, rng.uniform(0, 360), abs(rng.normal()) * 2.0)
            records.append({"track_id": track, "pts": k / 5, "latitude": lat, "longitude": lon})
    records.append({"pts": 0.0, "latitude": 1.0, "longitude": 2.0, "note": "no track"})
    records.append({"track_id": 3, "pts": 0.0, "code": "horizon"})

    def error(some):
        return np.mean(
            [
                geod.inv(*true[r["track_id"], round(r["pts"] * 5)], r["longitude"], r["latitude"])[
                    2
                ]
                for r in some[:200]
            ]
        )

    smooth = smooth_geo(records, noise=1.5, acceleration=0.3)
    assert error(smooth) < 0.4 * error(records)
    assert smooth[-2:] == records[-2:] and len(smooth) == len(records)
    assert all(-180 <= record["longitude"] < 180 for record in smooth[:200])


def test_a_position_without_time_is_named():
    record = {"track_id": 1, "latitude": 1.0, "longitude": 1.0}
    with pytest.raises(InputError, match="position record 0: has no captured_at"):
        smooth_geo([record], noise=1, clock="captured_at")
