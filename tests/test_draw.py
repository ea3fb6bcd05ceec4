import cv2
import numpy as np
import pytest

from cpr.visualization import draw
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_rgb


def blank(height=40, width=60):
    return np.full((height, width, 3), 100, dtype=np.uint8)


def centroid(mask):
    """Centre of the set pixels in continuous coordinates."""
    ys, xs = np.nonzero(mask)
    return xs.mean() + 0.5, ys.mean() + 0.5


@pytest.mark.parametrize("point", [(20.5, 10.5), (20.0, 10.0), (31.3, 22.8)])
def test_disc_lies_where_the_continuous_coordinates_say(point):
    image = draw.draw_points(blank(), np.array([point]), draw.CLICK, radius=5)
    changed = (image != 100).any(axis=2)
    assert centroid(changed) == pytest.approx(point, abs=0.15)


def test_disc_has_its_colour_inside_and_a_dark_rim():
    image = draw.draw_points(blank(), np.array([[20.5, 20.5]]), draw.REFINED, radius=5)
    assert tuple(image[20, 20]) == draw.REFINED
    assert image[20, 26].max() <= 80


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 2)),
        np.array([[np.nan, 3.0]]),
        np.array([[1e30, 3.0]]),
        np.array([[-1e30, -1e30]]),
        np.array([[500.0, 3.0]]),
    ],
)
def test_nothing_is_drawn_for_points_that_are_not_on_the_image(points):
    assert (draw.draw_points(blank(), points, draw.CLICK) == 100).all()


def test_box_outline_runs_through_its_outermost_pixels():
    image = draw.draw_boxes(blank(), np.array([[10, 5, 20, 10]]))
    ys, xs = np.nonzero((image > 220).all(axis=2))
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (10, 29, 5, 14)


def test_box_beyond_the_image_is_drawn_at_its_border():
    image = draw.draw_boxes(blank(), np.array([[-1e9, -1e9, 2e9, 2e9]]))
    assert (image[0] > 200).all() and (image[:, -1] > 200).all()


def test_marker_grows_with_the_image():
    assert draw.marker_radius(blank(64, 64)) == 2.0
    assert draw.marker_radius(blank(300, 300)) < draw.marker_radius(blank(600, 600)) <= 12.0


def test_layers_put_the_refined_point_on_top():
    point = np.array([[20.5, 20.5]])
    image = draw.draw_layers(blank(), semantic=point, clicks=point, refined=point)
    assert tuple(image[20, 20]) == draw.REFINED


def test_predictions_have_the_colour_of_their_class():
    points = np.array([[10.5, 10.5], [30.5, 10.5]])
    image = draw.draw_layers(blank(), predicted=points, predicted_labels=[0, 1], radius=3)
    assert tuple(image[10, 10]) == draw.class_colour(0)
    assert tuple(image[10, 30]) == draw.class_colour(1) != draw.class_colour(0)


@pytest.mark.parametrize("centre", [(50, 50), (0, 0), (99, 79), (-20, 300)])
def test_crop_maps_points_to_the_same_content(centre):
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    image[:, :, 0] = np.arange(100)
    image[:, :, 1] = np.arange(80)[:, None]
    crop = draw.crop_around(image, centre, 40, output_size=40)
    assert crop.image.shape == (40, 40, 3)
    x, y = crop.origin
    for point in ([x + 0.5, y + 0.5], [x + 20.5, y + 7.5]):
        moved = crop.points(np.array([point]))[0]
        red, green = crop.image[int(moved[1]), int(moved[0]), :2]
        assert (red, green) == (int(point[0]), int(point[1]))


def test_crop_scales_boxes_and_shrinks_to_a_small_image():
    crop = draw.crop_around(blank(20, 30), (10, 10), 100, output_size=60)
    assert crop.image.shape == (40, 60, 3) and crop.scale == (2.0, 2.0)
    assert crop.boxes(np.array([[1, 2, 3, 4]])).tolist() == [[2, 4, 6, 8]]


def test_montage_places_images_in_reading_order():
    images = [np.full((10, 12, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    sheet = draw.montage(images, columns=2, gap=2)
    assert sheet.shape == (2 * 12 + 2, 2 * 14 + 2, 3)
    assert sheet[7, 8, 0] == 10 and sheet[7, 22, 0] == 20 and sheet[19, 8, 0] == 30
    assert sheet[19, 22, 0] == 255


def test_montage_cuts_captions_to_the_cell_and_refuses_a_wrong_number():
    sheet = draw.montage([blank()], ["a very long caption, ten times as wide: äöü"])
    assert sheet.shape == (40 + 22 + 12, 60 + 12, 3)
    with pytest.raises(ValueError, match="captions"):
        draw.montage([blank()], ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        draw.montage([])


def test_image_files_round_trip_and_keep_red_red(tmp_path):
    image = blank()
    image[:, :, 0] = 200
    path = tmp_path / "ö.png"
    path.write_bytes(draw.encode_image(image))
    assert (read_rgb(path) == image).all()
    assert cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[0, 0].tolist() == [
        100,
        100,
        200,
    ]


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png"):
        read_rgb(path)
