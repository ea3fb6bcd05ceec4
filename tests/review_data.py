"""A refined data set with everything that the review page shows, and made-up ones of any size."""

import json

import numpy as np
from PIL import Image

# Names that would end a script element, start one, or make a formula.
HOSTILE_CLASS = "</script><script>window.broken=1</script>"
HOSTILE_FOLDER = "<img src=x onerror=window.broken=1>"


def write_images(folder, names, size=(160, 120)):
    """Pictures of smooth noise, about as hard to compress as photographs."""
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        grain = rng.integers(-12, 12, image.shape)
        Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8)).save(path, quality=92)


def small_dataset():
    """Seven refined objects of three images, four of them flagged."""

    def one(number, image, click, point, **more):
        return {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "coarse_point": click,
            "point": point,
            "refined": True,
            "refine_score": 0.6,
            "bag_radius": 20.0,
            "own_score": 0.3,
            "other_class": 7,
            "other_score": 0.1,
            **more,
        }

    return {
        "images": [
            {"id": 1, "file_name": "b.jpg", "width": 160, "height": 120},
            {"id": 2, "file_name": f"=a,{HOSTILE_FOLDER}.jpg", "width": 160, "height": 120},
            {"id": "x", "file_name": "c.jpg", "width": 160, "height": 120},
            {"id": 9, "file_name": "empty.jpg", "width": 160, "height": 120},
        ],
        "categories": [{"id": 1, "name": "cow"}, {"id": 7, "name": HOSTILE_CLASS}],
        "annotations": [
            one(11, 1, [30, 30], [33, 30], bbox=[20, 20, 25, 25]),
            one(12, 1, [80, 60], [97, 60], semantic_points=[[96, 59], [98, 61]]),
            one(13, 2, [20, 20], [20, 20], refined=False, refine_score=0.0, category_id=7)
            | {"other_class": 1, "other_score": 0.4},
            one(14, 2, [100, 50], [104, 50], refine_score=0.11),
            one(15, "x", [60, 60], [64, 60]),
            one(16, "x", [70, 60], [66, 60]),
            one(17, "x", [10, 110], [12, 112]),
            {"id": 18, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "ignore": 1},
        ],
    }


# Flags of each object, worst first, by hand.
SMALL_ORDER = {
    13: ("class", "not-refined"),
    15: ("same-place",),
    16: ("same-place",),
    12: ("moved",),
    14: ("low-score",),
    11: (),
    17: (),
}


def write_small(folder):
    """Writes refined.json and images; returns their paths."""
    dataset = small_dataset()
    write_images(folder / "images", [image["file_name"] for image in dataset["images"]])
    path = folder / "refined.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return path, folder / "images"


def large_dataset(objects, images, size=(640, 480), semantic=20):
    """Made-up refined objects on `images` images called 0.jpg, 1.jpg, ..."""
    rng = np.random.default_rng(1)
    annotations = []
    for index in range(objects):
        click = rng.uniform(30, np.array(size) - 30)
        point = np.clip(click + rng.normal(0, 9, 2), 0, size)
        spread = np.clip(point + rng.normal(0, 6, (semantic, 2)), 0, size)
        annotations.append(
            {
                "id": index + 1,
                "image_id": index % images + 1,
                "category_id": int(rng.integers(1, 5)),
                "coarse_point": click.round(2).tolist(),
                "point": point.round(2).tolist(),
                "refined": bool(rng.random() > 0.1),
                "refine_score": round(float(rng.uniform(0.05, 0.9)), 4),
                "bag_radius": 30.0,
                "own_score": round(float(rng.uniform(0.1, 0.5)), 4),
                "other_class": 1,
                "other_score": round(float(rng.uniform(0, 0.15)), 4),
                "semantic_points": spread.round(2).tolist(),
            }
        )
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]}
            for i in range(images)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 5)],
        "annotations": annotations,
    }
