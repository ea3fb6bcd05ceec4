"""The WGS 84 ellipsoid: Earth-centred coordinates, local axes, geodesics (pyproj).

Latitudes and longitudes are degrees (north and east positive), heights m above the ellipsoid,
azimuths degrees clockwise from true north. ECEF coordinates (Earth-centred, Earth-fixed, EPSG:4978)
are m. Nothing here is flat: it holds at the poles and at the antimeridian.
"""

from __future__ import annotations

import functools

import numpy as np

from cpr_deploy.files import InputError

# Of the ellipsoid, by definition: semi-major axis (m) and flattening.
SEMI_MAJOR = 6378137.0
FLATTENING = 1 / 298.257223563
SEMI_MINOR = SEMI_MAJOR * (1 - FLATTENING)


def require(module: str) -> None:
    """InputError that names the extra, unless an optional library is there."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"this needs {module}, which is not installed: pip install"
            " 'cpr-point-localization[geo]'."
        )


@functools.cache
def _transformers():
    require("pyproj")
    from pyproj import Transformer

    return (
        Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True),
        Transformer.from_crs("EPSG:4978", "EPSG:4979", always_xy=True),
    )


@functools.cache
def geod():
    """Geodesics on the ellipsoid (`pyproj.Geod`)."""
    require("pyproj")
    from pyproj import Geod

    return Geod(ellps="WGS84")


def to_ecef(latitude, longitude, height) -> np.ndarray:
    """ECEF coordinates (..., 3), m, of geodetic ones (...)."""
    latitude, longitude, height = np.broadcast_arrays(latitude, longitude, height)
    xyz = _transformers()[0].transform(longitude, latitude, height)
    return np.stack([np.asarray(part, float) for part in xyz], axis=-1)


def to_geodetic(ecef: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latitude, longitude and height (...) of ECEF coordinates (..., 3). NaN stays NaN."""
    parts = _transformers()[1].transform(ecef[..., 0], ecef[..., 1], ecef[..., 2])
    longitude, latitude, height = (np.array(part, float) for part in parts)
    bad = ~np.isfinite(ecef).all(axis=-1)
    for part in (latitude, longitude, height):
        part[bad] = np.nan
    return latitude, longitude, height


def enu_axes(latitude, longitude) -> np.ndarray:
    """East, north and up (..., 3 rows, 3) as ECEF unit vectors; up is the ellipsoid's normal."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    zero = np.zeros(np.shape(phi))
    east = [-np.sin(lam) + zero, np.cos(lam) + zero, zero]
    north = [-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)]
    up = [np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]
    return np.stack([np.stack(axis, axis=-1) for axis in (east, north, up)], axis=-2)


def ellipse_outline(
    latitude: float,
    longitude: float,
    semi_major: float,
    semi_minor: float,
    azimuth: float,
    corners: int = 48,
) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes (corners,) on an ellipse about a point, counter-clockwise.

    Semi-axes in m, azimuth of the longer one. The outline is not closed.
    """
    angle = -2 * np.pi * np.arange(corners) / corners
    along, across = semi_major * np.cos(angle), semi_minor * np.sin(angle)
    directions = azimuth + np.degrees(np.arctan2(across, along))
    ones = np.ones(corners)
    lon, lat, _ = geod().fwd(longitude * ones, latitude * ones, directions, np.hypot(along, across))
    return np.asarray(lat), np.asarray(lon)


def wrap_longitude(longitude):
    """In [-180, 180)."""
    return (np.asarray(longitude, float) + 180) % 360 - 180
