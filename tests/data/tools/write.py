#!/usr/bin/env python
"""Writes the files of this folder: what other tools' own libraries write and read.

    PYTHONPATH=projects/CPR:deploy python tests/data/tools/write.py [LIBRARY ...]

Needs the libraries: datumaro, label-studio-sdk, labelme, pascal-voc-writer, supervision. For each
one `<library>-<version>/` holds what it writes, and `read.json` what it reads of `exported/`, which
our own exporters wrote. The tests of importers and exporters read these files always, and call the
functions below where the libraries are installed.

Two images, 40 x 30 px and a single pixel, two classes; the numbers are continuous px.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLASSES = ["seal", "bird"]
SIZES = {"a.png": (40, 30), "dot.png": (1, 1)}
# Image -> class and x, y, w, h; class and x, y.
BOXES = {
    "a.png": [("bird", (2, 3, 8, 5.5)), ("seal", (20, 10, 19.25, 20))],
    "dot.png": [("bird", (0, 0, 1, 1))],
}
POINTS = {
    "a.png": [("bird", (3.5, 4.25)), ("seal", (39.75, 29.5))],
    "dot.png": [("bird", (0.5, 0.5))],
}
OUTLINE = ("seal", [(20, 10), (30, 12), (25.5, 28)])  # on a.png

# What is exported: clicks, a box, a region to ignore.
DATASET: dict[str, Any] = {
    "images": [
        {"id": 4, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 5, "file_name": "dot.png", "width": 1, "height": 1},
    ],
    "categories": [{"id": 6, "name": "seal"}, {"id": 3, "name": "bird"}],
    "annotations": [
        {"id": 9, "image_id": 4, "category_id": 6, "point": [3.25, 4.5]},
        {"id": 10, "image_id": 5, "category_id": 3, "point": [0.5, 0.5]},
        {"id": 11, "image_id": 4, "category_id": 3, "bbox": [8, 6, 12, 15]},
    ],
}
EXPORTED = {
    "cvat": "cvat.xml",
    "coco": "coco.json",
    "label-studio": "label_studio.json",
    "supervision": "supervision.json",
}


def version(library: str) -> str:
    return importlib.metadata.version(library)


def write_images(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        Image.new("RGB", size).save(folder / name)


# --- what the libraries write ---


def write_datumaro(folder: Path) -> None:
    """CVAT, COCO boxes and keypoints, Pascal VOC and two kinds of YOLO."""
    import datumaro as dm
    import numpy as np

    def boxes(name: str) -> list:
        return [dm.Bbox(*box, label=CLASSES.index(label)) for label, box in BOXES[name]]

    def points(name: str) -> list:
        return [dm.Points(point, label=CLASSES.index(label)) for label, point in POINTS[name]]

    def shapes(name: str) -> list:
        outline = [value for corner in OUTLINE[1] for value in corner]
        polygons = [dm.Polygon(outline, label=CLASSES.index(OUTLINE[0]))]
        return boxes(name) + points(name) + (polygons if name == "a.png" else [])

    def keypoints(name: str) -> list:
        # Pixel indices, as COCO has them.
        return [
            dm.Points([x - 0.5, y - 0.5], [2], label=CLASSES.index(label))
            for label, (x, y) in POINTS[name]
        ]

    def export(file_format: str, name: str, annotations: Callable[[str], list], **more) -> None:
        items = [
            dm.DatasetItem(
                Path(image).stem,
                # One kind of YOLO wants both parts.
                subset="val" if image == "dot.png" and "ultralytics" in file_format else "train",
                media=dm.Image.from_numpy(np.zeros((height, width, 3), np.uint8)),
                annotations=annotations(image),
            )
            for image, (width, height) in SIZES.items()
        ]
        categories: Any = CLASSES
        if more:
            labels = dm.LabelCategories.from_iterable(CLASSES)
            clicks = dm.PointsCategories.from_iterable([(n, ["click"]) for n in range(2)])
            categories = {dm.AnnotationType.label: labels, dm.AnnotationType.points: clicks}
        dataset = dm.Dataset.from_iterable(items, categories=categories)
        dataset.export(str(folder / name), file_format, save_media=False, image_ext=".png")

    export("cvat", "cvat", shapes)
    export("coco_instances", "coco_instances", boxes)
    export("coco_person_keypoints", "coco_keypoints", keypoints, keypoints=True)
    export("voc_detection", "voc", boxes)
    export("yolo", "yolo", boxes)
    export("yolo_ultralytics", "yolo_ultralytics", boxes)


def write_label_studio(folder: Path) -> None:
    """Tasks: out of COCO with the converter, and region by region with the labelling interface."""
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
    from label_studio_sdk.label_interface import LabelInterface

    from cpr.data.exporters.label_studio import labelling_interface

    folder.mkdir(parents=True)
    images = [
        {"id": n, "file_name": name, "width": width, "height": height}
        for n, (name, (width, height)) in enumerate(SIZES.items(), start=1)
    ]
    ids = {image["file_name"]: image["id"] for image in images}
    annotations = [
        {"image_id": ids[name], "category_id": CLASSES.index(label), **place}
        for places in (
            {n: [(c, {"bbox": list(box), "iscrowd": 0}) for c, box in v] for n, v in BOXES.items()},
            {n: [(c, {"keypoints": [*xy, 2], "iscrowd": 0}) for c, xy in v]
             for n, v in POINTS.items()},
        )
        for name, found in places.items()
        for label, place in found
    ]  # fmt: skip
    coco = {
        "images": images,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES)],
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=1)],
    }
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "coco.json")
        source.write_text(json.dumps(coco))
        convert_coco_to_ls(str(source), str(folder / "converted.json"))
    for path in folder.glob("*label_config.xml"):
        path.unlink()

    interface = LabelInterface(labelling_interface(CLASSES))
    tasks = []
    for number, name in enumerate(SIZES, start=1):
        width, height = SIZES[name]
        regions = [
            interface.get_control("point").label(
                label=[label], x=100 * x / width, y=100 * y / height
            )
            for label, (x, y) in POINTS[name]
        ] + [
            interface.get_control("box").label(
                label=[label],
                x=100 * x / width,
                y=100 * y / height,
                width=100 * w / width,
                height=100 * h / height,
                rotation=0,
            )
            for label, (x, y, w, h) in BOXES[name]
        ]
        results = [region._dict() for region in regions]
        tasks.append({"id": number, "data": {"image": name}, "annotations": [{"result": results}]})
    (folder / "interface.json").write_text(json.dumps(tasks, indent=1) + "\n")


def write_labelme(folder: Path) -> None:
    """A file for each image with its points, boxes and the outline."""
    try:
        from labelme._label_file import LabelFile
    except ImportError:  # before version 6
        from labelme.label_file import LabelFile

    folder.mkdir(parents=True)

    def shape(label: str, kind: str, points: list) -> dict[str, Any]:
        return {
            "label": label,
            "points": [list(point) for point in points],
            "group_id": None,
            "description": "",
            "shape_type": kind,
            "flags": {},
            "mask": None,
        }

    for name, (width, height) in SIZES.items():
        shapes = [shape(label, "point", [point]) for label, point in POINTS[name]]
        shapes += [
            shape(label, "rectangle", [(x, y), (x + w, y + h)])
            for label, (x, y, w, h) in BOXES[name]
        ]
        if name == "a.png":
            shapes.append(shape(OUTLINE[0], "polygon", OUTLINE[1]))
        LabelFile().save(
            str(folder / f"{Path(name).stem}.json"), shapes, f"..\\images\\{name}", height, width
        )


def write_pascal_voc_writer(folder: Path) -> None:
    """Numbers go into the files as they are given."""
    from pascal_voc_writer import Writer

    folder.mkdir(parents=True)
    for name, (width, height) in SIZES.items():
        writer = Writer(f"/home/someone/images/{name}", width, height)
        for index, (label, (x, y, w, h)) in enumerate(BOXES[name]):
            writer.addObject(label, x, y, x + w, y + h, difficult=index)
        writer.save(str(folder / f"{Path(name).stem}.xml"))


def write_supervision(folder: Path) -> None:
    """COCO, YOLO, LabelMe, and Pascal VOC, which supervision counts from 1 in whole px."""
    import numpy as np
    import supervision as sv

    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary, "images")
        write_images(images)
        annotations = {}
        for name in SIZES:
            corners = [(x, y, x + w, y + h) for _, (x, y, w, h) in BOXES[name]]
            labels = np.array([CLASSES.index(label) for label, _ in BOXES[name]])
            annotations[str(images / name)] = sv.Detections(
                xyxy=np.array(corners, np.float32), class_id=labels
            )
        dataset = sv.DetectionDataset(CLASSES, list(annotations), annotations)
        folder.mkdir(parents=True)
        dataset.as_coco(annotations_path=str(folder / "coco.json"))
        dataset.as_yolo(
            annotations_directory_path=str(folder / "yolo" / "labels"),
            data_yaml_path=str(folder / "yolo" / "data.yaml"),
        )
        dataset.as_pascal_voc(annotations_directory_path=str(folder / "voc"))
        dataset.as_labelme(annotations_directory_path=str(folder / "labelme"))


# --- what the libraries read ---


def export_all(folder: Path) -> None:
    """Our exports of DATASET."""
    from cpr.data.exporters.export_points import export_points

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "points.json")
        source.write_text(json.dumps(DATASET))
        for file_format, name in EXPORTED.items():
            export_points(source, folder / name, file_format=file_format)


def read_datumaro(exported: Path) -> dict[str, list]:
    """[image, kind, class, numbers] of each annotation: px, the corners of boxes."""
    import datumaro as dm

    found: dict[str, list] = {}
    for file_format, datumaro_format in (("cvat", "cvat"), ("coco", "coco_person_keypoints")):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            if file_format == "cvat":
                write_images(root / "images")
                shutil.copy(exported / EXPORTED["cvat"], root / "default.xml")
            else:
                write_images(root / "images" / "train")
                (root / "annotations").mkdir()
                name = "person_keypoints_train.json"
                shutil.copy(exported / EXPORTED["coco"], root / "annotations" / name)
            dataset = dm.Dataset.import_from(str(root), datumaro_format)
            names = [label.name for label in dataset.categories()[dm.AnnotationType.label].items]
            found[file_format] = sorted(
                [item.id, annotation.type.name, names[annotation.label], list(annotation.points)]
                for item in dataset
                for annotation in item.annotations
            )
    return found


def read_label_studio(exported: Path) -> dict[str, Any]:
    """Validated by the interface; boxes in px and points in percent as the converter has them."""
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    from cpr.data.exporters.label_studio import labelling_interface

    config = labelling_interface(CLASSES)
    interface = LabelInterface(config)
    interface.validate()
    path = exported / EXPORTED["label-studio"]
    for task in json.loads(path.read_text()):
        assert interface.validate_task({"data": task["data"]})
        for annotation in task["annotations"]:
            assert interface.validate_annotation(annotation)
    with tempfile.TemporaryDirectory() as temporary:
        converter = Converter(config, temporary, download_resources=False)
        converter.convert_to_coco(str(path), temporary, is_dir=False)
        content = json.loads(Path(temporary, "result.json").read_text())
        # COCO puts all keypoints of an image into one object; here they are apart.
        converter.convert_to_json_min(str(path), temporary, is_dir=False)
        tasks = json.loads(Path(temporary, "result.json").read_text())
    # The names of COCO's classes and files are made up anew there.
    boxes = [a["bbox"] for a in content["annotations"] if not a.get("keypoints")]
    found: dict[str, list] = {"boxes": boxes, "percent": []}
    for task in tasks:
        for point in task.get("point", []):
            label = point["keypointlabels"][0]
            found["percent"].append([task["image"], label, [point["x"], point["y"]]])
    return found


def read_supervision(exported: Path) -> dict[str, list]:
    """Points and boxes of the arrays, as FORMATS.md makes objects of them."""
    import numpy as np
    import supervision as sv

    found: dict[str, list] = {"points": [], "boxes": []}
    for image in json.loads((exported / EXPORTED["supervision"]).read_text())["images"]:
        clicks, boxes = image["key_points"], image["detections"]
        key_points = sv.KeyPoints(
            xy=np.array(clicks["xy"], np.float32).reshape(-1, 1, 2),
            class_id=np.array(clicks["class_id"], int),
            data={key: np.array(values) for key, values in clicks["data"].items()},
        )
        detections = sv.Detections(
            xyxy=np.array(boxes["xyxy"], np.float32).reshape(-1, 4),
            class_id=np.array(boxes["class_id"], int),
            data={key: np.array(values) for key, values in boxes["data"].items()},
        )
        for kind, objects, places in (
            ("points", key_points, key_points.xy.reshape(-1, 2)),
            ("boxes", detections, detections.xyxy),
        ):
            found[kind] += [
                [image["file_name"], str(name), int(number), place]
                for name, number, place in zip(
                    objects.data["class_name"],
                    objects.data["annotation_id"],
                    places.tolist(),
                    strict=True,
                )
            ]
    return found


WRITERS: dict[str, Callable[[Path], None]] = {
    "datumaro": write_datumaro,
    "label-studio-sdk": write_label_studio,
    "labelme": write_labelme,
    "pascal-voc-writer": write_pascal_voc_writer,
    "supervision": write_supervision,
}
READERS: dict[str, Callable[[Path], Any]] = {
    "datumaro": read_datumaro,
    "label-studio-sdk": read_label_studio,
    "supervision": read_supervision,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=f"of {list(WRITERS)}")
    args = parser.parse_args()
    export_all(HERE / "exported")
    for library in args.libraries or WRITERS:
        folder = HERE / f"{library}-{version(library)}"
        for old in HERE.glob(f"{library}-[0-9]*"):
            shutil.rmtree(old)
        WRITERS[library](folder)
        if library in READERS:
            found = READERS[library](HERE / "exported")
            (folder / "read.json").write_text(json.dumps(found) + "\n")
        print(f"wrote {folder.name}: {sum(p.is_file() for p in folder.rglob('*'))} files")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
