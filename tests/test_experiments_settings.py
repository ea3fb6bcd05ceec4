import dataclasses

import numpy as np
import pytest

from cpr.experiments.settings import Settings, click_spacing, radius_for, suggest_settings
from cpr_deploy.files import InputError


def dataset(*, side=20.0, spacing=None, image=(500, 400), columns=4, rows=3, classes=1, boxes=True):
    """A grid of square objects; spacing between their centres, default: three sides."""
    spacing = spacing or 3 * side
    annotations = []
    for index in range(columns * rows):
        x, y = (spacing * (0.5 + v) for v in (index % columns, index // columns))
        record = {"id": index, "image_id": 1, "category_id": index % classes, "point": [x, y]}
        if boxes:
            record["bbox"] = [x - side / 2, y - side / 2, side, side]
        annotations.append(record)
    return {
        "images": [{"id": 1, "width": image[0], "height": image[1], "file_name": "a.png"}],
        "categories": [{"id": i, "name": str(i)} for i in range(classes)],
        "annotations": annotations,
    }


@pytest.mark.parametrize("side, scale", [(12.0, 2.0), (48.0, 0.5), (96.0, 0.25), (22.0, 1.0)])
def test_objects_are_brought_to_the_working_size(side, scale):
    settings = suggest_settings(dataset(side=side))
    assert settings.object_size == side and settings.scale == scale
    assert "12 boxes" in settings.object_size_from
    # R * stride is 0.65 of the object: 16 px on 24.
    assert (settings.level, settings.radius) == ("p2", 4)
    # Two points nearer than about half an object are one (IoU 0.2 of squares of 0.7 sides).
    assert settings.nms_size == pytest.approx(0.7 * side)
    assert settings.pseudo_box == side


def test_scale_has_limits():
    assert suggest_settings(dataset(side=2.0)).scale == 3.0
    assert suggest_settings(dataset(side=1000.0, image=(9000, 9000))).scale == 0.125


@pytest.mark.parametrize(
    "working, level, stride", [(24.0, "p2", 4), (66.0, "p3", 8), (120.0, "p4", 16)]
)
def test_level_and_radius_follow_the_working_size(working, level, stride):
    settings = suggest_settings(dataset(side=100.0), working_size=working)
    assert settings.level == level
    assert settings.radius == radius_for(100.0 * settings.scale, stride)
    assert 0.5 < settings.radius * stride / (100.0 * settings.scale) < 0.8


def test_size_from_clicks_alone():
    # Objects that touch: the nearest neighbour is as far away as an object is large.
    clicks = dataset(side=30.0, spacing=30.0, boxes=False)
    assert click_spacing(clicks) == 30.0
    assert suggest_settings(clicks).object_size == pytest.approx(0.85 * 30)
    assert suggest_settings(dataset(side=30.0, spacing=60.0), boxes=0).object_size == 51.0
    # Far apart they say nothing; objects are at most a quarter of the image.
    wide = dataset(side=30.0, spacing=1000.0, image=(500, 400), boxes=False)
    assert suggest_settings(wide).object_size == 100.0


def test_spacing_by_brute_force():
    rng = np.random.default_rng(0)
    data = dataset(columns=6, rows=5, boxes=False)
    data["images"].append({**data["images"][0], "id": 2})
    data["images"].append({**data["images"][0], "id": 3})
    for index, a in enumerate(data["annotations"]):
        a["point"] = rng.uniform(0, 400, 2).tolist()
        a["image_id"] = 3 if index == 29 else 1 + index % 2  # image 3 has a single click
    nearest = []
    for a in data["annotations"]:
        others = [
            np.hypot(*np.subtract(a["point"], b["point"]))
            for b in data["annotations"]
            if b is not a and b["image_id"] == a["image_id"]
        ]
        nearest += [min(others)] if others else []
    assert len(nearest) == 29
    assert click_spacing(data) == pytest.approx(np.median(nearest))


def test_double_clicks_are_no_distance():
    clicks = dataset(side=30.0, spacing=30.0, boxes=False)
    clicks["annotations"] += [{**a, "id": 100 + a["id"]} for a in clicks["annotations"]]
    assert click_spacing(clicks) == 30.0
    one = dataset(columns=1, rows=1, boxes=False)
    one["annotations"] *= 2
    assert click_spacing(one) is None


def test_ignored_objects_do_not_count():
    data = dataset(side=24.0)
    for a in data["annotations"][:6]:
        a["bbox"] = [0, 0, 400.0, 400.0]
        a["ignore"] = 1
    settings = suggest_settings(data)
    assert settings.object_size == 24.0 and "6 boxes" in settings.object_size_from


def test_large_images_are_trained_on_in_crops():
    assert suggest_settings(dataset(side=24.0, image=(384, 384))).crop == 0
    assert suggest_settings(dataset(side=24.0, image=(1920, 1080))).crop == 256
    # 256 px of the network are 512 px of the image.
    assert suggest_settings(dataset(side=48.0, image=(4000, 3000))).crop == 512


def test_classes_lengthen_the_schedule_and_crowds_the_list_of_points():
    one, four = suggest_settings(dataset()), suggest_settings(dataset(classes=4))
    assert four.num_classes == 4
    assert four.cprnet_iterations == one.cprnet_iterations + 600
    assert four.localizer_iterations == one.localizer_iterations + 300
    assert one.max_dets == 100
    assert suggest_settings(dataset(side=4.0, columns=20, rows=10)).max_dets == 400
    halved = four.with_schedule(0.5)
    assert halved.cprnet_iterations * 2 == four.cprnet_iterations
    unchanged = dataclasses.replace(
        halved,
        cprnet_iterations=four.cprnet_iterations,
        localizer_iterations=four.localizer_iterations,
    )
    assert unchanged == four


def test_a_size_that_is_given_wins():
    settings = suggest_settings(dataset(side=20.0), object_size=60.0)
    assert settings.object_size == 60.0 and settings.object_size_from == "given"
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    "data, options, text",
    [
        (dataset(columns=0), {}, "no objects"),
        (dataset(columns=1, rows=1, boxes=False), {}, "--object-size"),
        (dataset(), {"object_size": -3.0}, "above 0"),
        (dataset(), {"working_size": 0.0}, "above 0"),
        (dataset(), {"object_size": float("nan")}, "--object-size nan"),
    ],
)
def test_what_cannot_be_known_is_refused(data, options, text):
    with pytest.raises(InputError, match=text):
        suggest_settings(data, **options)


def test_rare_classes_lengthen_the_schedule_of_cprnet():
    """4,000 clicks of the rarest class are to be seen, in batches of 4 images."""
    data = dataset(classes=2, image=(300, 300))  # six clicks of each class in the only image
    assert suggest_settings(data).cprnet_iterations == 800
    for annotation in data["annotations"]:
        annotation["category_id"] = int(annotation["id"] == 0)
    assert suggest_settings(data).cprnet_iterations == 1000
    # Images without objects are not trained on, and the schedule has an end.
    data["images"].append({**data["images"][0], "id": 2})
    assert suggest_settings(data).cprnet_iterations == 1000
    other = {**data["annotations"][1], "id": 100, "image_id": 2}
    more = {**data, "annotations": [*data["annotations"], other]}
    assert suggest_settings(more).cprnet_iterations == 2000
    many = [{**other, "id": 100 + i, "image_id": 2 + i} for i in range(9)]
    data["images"] += [{**data["images"][0], "id": 3 + i} for i in range(8)]
    data["annotations"] += many
    assert suggest_settings(data).cprnet_iterations == 2400
    # Nothing needs to be told apart.
    for annotation in data["annotations"]:
        annotation["category_id"] = 0
    data["categories"] = data["categories"][:1]
    assert suggest_settings(data).cprnet_iterations == 600


def test_crops_show_fewer_clicks():
    wide = dataset(classes=2, side=24.0, image=(1024, 512))
    assert suggest_settings(wide).crop == 256
    # A crop is an eighth of the image, so three clicks of a class are in a batch.
    assert suggest_settings(wide).cprnet_iterations == 1300
