"""The ground that lines of sight meet: a level surface, or an elevation model (rasterio)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cpr_deploy.files import InputError

from . import earth
from .codes import GeoRefusal

# A surface that a ray touches flatter than this (sine) cannot be told from the horizon.
MIN_SINE = 1e-3
MAX_CELLS = 400_000_000
# Of the march along a ray: cells a step, steps at a time, halvings of the step that hits.
_STEP = 0.5
_BLOCK = 64
_HALVINGS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """Where rays meet the ground.

    distance (N,): m along the ray, NaN where there is none. normal (N, 3): the surface's, ECEF.
    codes (N,): None or why there is no hit.
    """

    distance: np.ndarray
    normal: np.ndarray
    codes: np.ndarray


class LevelGround:
    """A surface of constant altitude, m above `reference` (see `flight_path.REFERENCES`).

    It is the ellipsoid with both axes longer by that altitude, which is within 2 mm of it for each
    1,000 m.
    """

    def __init__(self, altitude: float, reference: str):
        self.altitude, self.reference = float(altitude), reference

    def intersect(
        self, origin: np.ndarray, rays: np.ndarray, lift: float, max_range: float
    ) -> Hits:
        """Hits of rays from `origin` (3,) in directions (N, 3), units, ECEF.

        `lift` is what turns altitudes of `reference` into heights above the ellipsoid, m.
        """
        height = self.altitude + lift
        axes = np.array([earth.SEMI_MAJOR, earth.SEMI_MAJOR, earth.SEMI_MINOR]) + height
        codes = np.full(len(rays), None, object)
        distance = level_distance(origin, rays, height)
        codes[np.isnan(distance)] = GeoRefusal.ABOVE_HORIZON
        if ((origin / axes) ** 2).sum() <= 1:
            distance[:] = np.nan
            codes[:] = GeoRefusal.BELOW_GROUND
        normal = (origin + distance[:, None] * rays) / axes**2
        return Hits(distance, normal / np.linalg.norm(normal, axis=1, keepdims=True), codes)


def level_distance(origin: np.ndarray, rays: np.ndarray, height: float) -> np.ndarray:
    """m along each ray to the first crossing of a height above the ellipsoid from above, or NaN."""
    axes = np.array([earth.SEMI_MAJOR, earth.SEMI_MAJOR, earth.SEMI_MINOR]) + height
    start, way = origin / axes, rays / axes
    a, b, c = (way * way).sum(axis=1), way @ start, start @ start - 1
    with np.errstate(invalid="ignore"):
        root = np.sqrt(b * b - a * c)
        # c / (root - b) is the smaller solution without the loss of digits of -b - root.
        return np.where(b < 0, c / (root - b), np.nan)


class ElevationModel:
    """Altitudes on a grid, from a GeoTIFF or any other raster that rasterio reads.

    The first band, m above `reference` ("msl" for nearly all public models), bilinear between the
    centres of its cells. Read as a whole.

    Raises:
        InputError: rasterio is absent, the file is no raster, has no coordinate system, is too
            large, or has no valid cell.
    """

    def __init__(self, path: str | Path, reference: str = "msl"):
        self.path, self.reference = Path(path), reference
        earth.require("rasterio")
        import rasterio

        if not self.path.is_file():
            raise InputError(f"{path}: no such file. Give a GeoTIFF with elevations.")
        try:
            with rasterio.open(self.path) as source:
                crs, transform, nodata = source.crs, source.transform, source.nodata
                if source.width * source.height > MAX_CELLS:
                    raise InputError(
                        f"{path}: {source.width} x {source.height} cells are too many. Cut out the"
                        " area, as by gdalwarp -te."
                    )
                values = source.read(1, masked=True).astype(np.float32).filled(np.nan)
        except rasterio.errors.RasterioError as error:
            raise InputError(f"{path}: cannot be read as a raster ({error}).") from None
        if crs is None or transform.is_identity:
            raise InputError(f"{path}: has no coordinate system. A GeoTIFF with one is needed.")
        if nodata is not None:
            values[values == nodata] = np.nan
        if not np.isfinite(values).any():
            raise InputError(f"{path}: has no valid cell.")
        self._values = values
        self._low, self._high = float(np.nanmin(values)), float(np.nanmax(values))
        self._inverse = (~transform)[:6]
        self._geographic = crs.is_geographic
        self._transform = _to_crs(crs)
        rows, columns = values.shape
        self._middle = _affine(transform[:6], columns / 2, rows / 2)
        cell = abs(transform.determinant) ** 0.5
        if self._geographic:
            cell *= np.radians(1) * earth.SEMI_MAJOR * np.cos(np.radians(self._middle[1]))
        self._cell = max(float(cell), 0.01)

    def altitude(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """m above `reference` at places (N,); NaN outside and where the model has no value."""
        if self._geographic:
            x, y = self._middle[0] + earth.wrap_longitude(longitude - self._middle[0]), latitude
        else:
            x, y = (np.asarray(part) for part in self._transform.transform(longitude, latitude))
        column, row = _affine(self._inverse, x, y)
        column, row = column - 0.5, row - 0.5
        rows, columns = self._values.shape
        # Up to half a cell beyond the outer centres the outer values count.
        with np.errstate(invalid="ignore"):
            inside = (column >= -0.5) & (row >= -0.5)
            inside &= (column <= columns - 0.5) & (row <= rows - 0.5)
        column = np.clip(np.where(inside, column, 0), 0, columns - 1)
        row = np.clip(np.where(inside, row, 0), 0, rows - 1)
        left = np.minimum(column.astype(int), max(columns - 2, 0))
        top = np.minimum(row.astype(int), max(rows - 2, 0))
        right, bottom = np.minimum(left + 1, columns - 1), np.minimum(top + 1, rows - 1)
        u, v = column - left, row - top
        upper = self._values[top, left] * (1 - u) + self._values[top, right] * u
        lower = self._values[bottom, left] * (1 - u) + self._values[bottom, right] * u
        return np.where(inside, upper * (1 - v) + lower * v, np.nan)

    def intersect(
        self, origin: np.ndarray, rays: np.ndarray, lift: float, max_range: float
    ) -> Hits:
        """As `LevelGround.intersect`; rays are followed up to `max_range` m.

        A ray that is anywhere over no valid cell while it could be in the terrain is refused: what
        stands there might hide the ground beyond.
        """
        count = len(rays)
        codes = np.full(count, None, object)
        distance = np.full(count, np.nan)
        normal = np.full((count, 3), np.nan)
        if self._above(origin[None], lift)[0][0] <= 0:
            codes[:] = GeoRefusal.BELOW_GROUND
            return Hits(distance, normal, codes)
        begin, end = self._slab(origin, rays, lift, max_range)
        codes[np.isnan(begin)] = GeoRefusal.ABOVE_HORIZON
        codes[begin > max_range] = GeoRefusal.BEYOND_RANGE
        todo = np.flatnonzero(np.equal(codes, None))
        near = begin[todo]
        across = _STEP * self._cell / np.maximum(self._sideways(origin, rays[todo]), 1e-6)
        step = np.minimum(across, np.maximum(end[todo] - near, 1e-3))
        while len(todo):
            # (rays, steps): distances, then how far above the ground the ray is there.
            ahead = near[:, None] + step[:, None] * np.arange(_BLOCK + 1)
            ahead = np.minimum(ahead, end[todo, None])
            points = origin + ahead[..., None] * rays[todo, None]
            gap, outside = (
                part.reshape(ahead.shape) for part in self._above(points.reshape(-1, 3), lift)
            )
            stop = ~(gap > 0)  # in the ground, or over no value
            found = stop.any(axis=1)
            at = stop.argmax(axis=1)
            each = np.arange(len(todo))
            blind = found & np.isnan(gap[each, at])
            codes[todo[blind]] = GeoRefusal.OUTSIDE_ELEVATION
            hit = found & ~blind
            low, high = ahead[each, np.maximum(at - 1, 0)], ahead[each, at]
            distance[todo[hit]] = self._refine(origin, rays[todo[hit]], low[hit], high[hit], lift)
            spent = ~found & (ahead[:, -1] >= end[todo])
            rises = gap[:, -1] > gap[:, 0]
            codes[todo[spent]] = GeoRefusal.BEYOND_RANGE
            codes[todo[spent & rises & outside[:, -1]]] = GeoRefusal.ABOVE_HORIZON
            left = ~found & ~spent
            todo, near, step = todo[left], ahead[left, -1], step[left]
        hit = np.isfinite(distance)
        normal[hit] = self._normals(origin + distance[hit, None] * rays[hit])
        return Hits(distance, normal, codes)

    def _slab(
        self, origin: np.ndarray, rays: np.ndarray, lift: float, max_range: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """From where to where along each ray it is between the lowest and the highest ground."""
        height = earth.to_geodetic(origin[None])[2][0]
        top = self._high + lift + 1e-3
        begin = np.zeros(len(rays))
        if height > top:
            begin = level_distance(origin, rays, top)
        end = level_distance(origin, rays, self._low + lift - 1.0)
        return begin, np.where(np.isnan(end), max_range, np.minimum(end, max_range))

    def _sideways(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """m over ground for each m along the rays."""
        up = earth.enu_axes(*(part[0] for part in earth.to_geodetic(origin[None])[:2]))[2]
        return np.sqrt(np.maximum(1 - (rays @ up) ** 2, 0))

    def _above(self, points: np.ndarray, lift: float) -> tuple[np.ndarray, np.ndarray]:
        """How far ECEF points (N, 3) are above the ground, m, and which are above all of it.

        Those count from the highest ground; of the others NaN is over no value.
        """
        latitude, longitude, height = earth.to_geodetic(points)
        over = height - lift - self._high
        gap = height - lift - self.altitude(latitude, longitude)
        return np.where(over > 0, over, gap), over > 0

    def _refine(self, origin, rays, low, high, lift) -> np.ndarray:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self._above(origin + middle[:, None] * rays, lift)[0] > 0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    def _normals(self, points: np.ndarray) -> np.ndarray:
        """Of the surface, over one cell."""
        latitude, longitude, _ = earth.to_geodetic(points)
        axes = earth.enu_axes(latitude, longitude)
        slopes = []
        for axis in (axes[:, 0], axes[:, 1]):
            ends = [
                self.altitude(*earth.to_geodetic(points + side * self._cell / 2 * axis)[:2])
                for side in (-1, 1)
            ]
            slopes.append(np.nan_to_num((ends[1] - ends[0]) / self._cell))
        normal = axes[:, 2] - slopes[0][:, None] * axes[:, 0] - slopes[1][:, None] * axes[:, 1]
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _affine(coefficients, x, y):
    a, b, c, d, e, f = coefficients
    return a * x + b * y + c, d * x + e * y + f


def _to_crs(crs):
    from pyproj import CRS, Transformer

    return Transformer.from_crs("EPSG:4326", CRS.from_user_input(crs.to_wkt()), always_xy=True)
