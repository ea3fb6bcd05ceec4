import numpy as np
import pytest

import spot_model
import stream_parts
from cpr_deploy.files import InputError
from cpr_deploy.regions import Region, RegionLocalizer

CELLS = [(0, 0), (3, 4), (11, 2), (12, 7), (15, 11), (23, 17), (31, 23)]
IMAGE = spot_model.picture(192, 256, CELLS)


@pytest.fixture(scope="module")
def whole():
    return stream_parts.localizer()


def points_of(result):
    return sorted(map(tuple, result.points.tolist()))


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 32), (128, 32), (96, 40), (512, 100)])
def test_tiles_find_what_the_whole_frame_shows_once(whole, tile, overlap):
    (result,) = RegionLocalizer(whole, tile=tile, overlap=overlap)([IMAGE])
    assert points_of(result) == sorted(spot_model.centres(CELLS)) and result.flags == 0


def test_two_sizes_in_one_call(whole):
    small = spot_model.picture(64, 64, [(2, 2)])
    found = RegionLocalizer(whole, tile=64, overlap=16)([small, IMAGE, small])
    assert [len(result) for result in found] == [1, len(CELLS), 1]


def test_region_of_interest_in_px_of_the_frame(whole):
    region = Region(88, 16, 48, 64)
    (result,) = RegionLocalizer(whole, roi=region)([IMAGE])
    assert points_of(result) == sorted(spot_model.centres([(11, 2), (12, 7)]))
    (tiled,) = RegionLocalizer(whole, roi=region, tile=32, overlap=8)([IMAGE])
    assert points_of(tiled) == points_of(result)
    # What is beyond the frame does not count.
    (corner,) = RegionLocalizer(whole, roi=Region(240, 176, 999, 999))([IMAGE])
    assert points_of(corner) == sorted(spot_model.centres([(31, 23)]))


def test_only_the_region_is_looked_at(whole):
    image = np.full_like(IMAGE, 250)
    image[32:64, 64:96] = 0
    (result,) = RegionLocalizer(whole, roi=Region(64, 32, 32, 32))([image])
    assert len(result) == 0


def test_bad_regions(whole):
    with pytest.raises(InputError, match="lies outside of a frame of 256x192 px"):
        RegionLocalizer(whole, roi=Region(256, 0, 5, 5))([IMAGE])
    with pytest.raises(InputError, match="width and height above 0"):
        Region(0, 0, 0, 5)
    with pytest.raises(InputError, match="overlap < tile"):
        RegionLocalizer(whole, tile=64, overlap=64)
