"""Small image folders and files of other tools, for the tests of importers and exporters."""

import io
import json

import numpy as np
from PIL import Image

from cpr.data.importers.import_points import import_points
from cpr.data.point_json import find_problems

# Name -> width, height.
SIZES = {"a.png": (40, 30), "sub/b.png": (20, 10), "dot.png": (1, 1)}


def write_images(folder, sizes=SIZES):
    """Images of these sizes in `folder`/images."""
    for name, size in sizes.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return folder


def write_files(folder, files):
    """Name -> text, bytes or what becomes JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, (dict, list)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(path, file_format, image_root=None, **settings):
    """The imported data set, which must be a valid one, and what was skipped."""
    result = import_points(path, image_root, file_format=file_format, **settings)
    assert not [p for p in find_problems(result.dataset, require="any") if p.is_error]
    return result


def rows(dataset):
    """(file name, class, point, box) of each annotation, in order."""
    images = {image["id"]: image["file_name"] for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return [
        (images[a["image_id"]], names[a["category_id"]], a.get("point"), a.get("bbox"))
        for a in dataset["annotations"]
    ]


# --- a file of each format that means the same object on one image ---


def cvat(shapes, name="a.png", size=(40, 30), labels=("seal",)):
    """CVAT's XML with these shapes on one image."""
    listed = "".join(f"<label><name>{label}</name></label>" for label in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>\n'
        f"<meta><task><labels>{listed}</labels></task></meta>\n"
        f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">\n{shapes}\n'
        "</image>\n</annotations>\n"
    )


def label_studio(value, kind="keypointlabels", image="a.png", size=(40, 30), **more):
    """A Label Studio export with one region."""
    result = {
        "id": "x1",
        "type": kind,
        "value": value,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        **more,
    }
    return [{"id": 5, "data": {"image": image}, "annotations": [{"id": 9, "result": [result]}]}]


def labelme(shape_type, points, image="a.png", size=(40, 30), **more):
    """A LabelMe file with one shape."""
    shape = {"label": "seal", "points": points, "shape_type": shape_type, "flags": {}, **more}
    return {
        "version": "5.5.0",
        "shapes": [shape],
        "imagePath": image,
        "imageWidth": size[0],
        "imageHeight": size[1],
        "imageData": None,
    }


def coco(annotation, image="a.png", size=(40, 30), keypoints=()):
    """A COCO file with one annotation."""
    return {
        "images": [{"id": 7, "file_name": image, "width": size[0], "height": size[1]}],
        "categories": [{"id": 3, "name": "seal", "keypoints": list(keypoints)}],
        "annotations": [{"id": 11, "image_id": 7, "category_id": 3, **annotation}],
    }


def voc(box, image="a.png", size=(40, 30), more=""):
    """A Pascal VOC file with one object."""
    sides = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<annotation><folder>images</folder><filename>{image}</filename>\n"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n"
        f"<object><name>seal</name>{more}<bndbox>{sides}</bndbox></object></annotation>\n"
    )


def shanghaitech(points, compressed=True):
    """The bytes of a ground-truth file of ShanghaiTech, written by scipy."""
    import scipy.io

    info = np.zeros((1, 1), dtype=[("location", "O"), ("number", "O")])
    info[0, 0] = (np.array(points, dtype=np.float64).reshape(-1, 2), float(len(points)))
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = info
    file = io.BytesIO()
    scipy.io.savemat(file, {"image_info": cell}, do_compression=compressed)
    return file.getvalue()
