"""Random scenes for the evaluator, and its rules once more as slow and plain loops."""

import numpy as np

TAUS = (0.5, 1.0, 2.0)
RANGES = {"all": (0, 1e5), "small": (0, 16), "large": (16, 1e5)}


def make_scene(
    seed: int,
    *,
    num_images: int = 6,
    num_classes: int = 3,
    ties: bool = False,
    num_boxes: int = 12,
    num_dets: int = 20,
) -> tuple[dict, list]:
    """Ground truth and detections with ignored and crowd boxes, empty images, duplicate points."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(1, num_images + 1):
        boxes = int(rng.integers(0, num_boxes + 1)) if num_boxes < 50 else num_boxes
        corners, sides = rng.uniform(0, 80, (boxes, 2)), rng.uniform(4, 30, (boxes, 2))
        for corner, side in zip(corners, sides, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, num_classes + 1)),
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "ignore": int(rng.random() < 0.1),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
        dets = int(rng.integers(0, num_dets + 1)) if num_dets < 50 else num_dets
        for _ in range(dets):
            here = [a for a in annotations[-boxes:] if boxes and a["image_id"] == image_id]
            if here and rng.random() < 0.7:
                near = here[int(rng.integers(len(here)))]
                x, y, w, h = near["bbox"]
                point = [x + w * rng.normal(0.5, 0.4), y + h * rng.normal(0.5, 0.4)]
                category_id = near["category_id"]
            else:
                point = rng.uniform(0, 110, 2).tolist()
                category_id = int(rng.integers(1, num_classes + 1))
            score = float(rng.integers(1, 5)) / 5 if ties else float(rng.random())
            detections.append(
                {
                    "image_id": image_id,
                    "category_id": category_id,
                    "point": [float(value) for value in point],
                    "score": score,
                }
            )
    detections += detections[:2]  # exact duplicates
    ground_truth = {
        "images": [
            {"id": i, "width": 120, "height": 120, "file_name": f"{i}.png"}
            for i in range(1, num_images + 1)
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, num_classes + 1)],
        "annotations": annotations,
    }
    return ground_truth, detections


def distance(point, box) -> np.float32:
    """1 / (1 + d^2) of Eq. 12, in float32 as the official evaluator; larger is nearer."""
    x, y, w, h = (np.float32(value) for value in box)
    dx = (np.float32(point[0]) - (x + w / np.float32(2))) / w
    dy = (np.float32(point[1]) - (y + h / np.float32(2))) / h
    return np.float32(1) / (np.float32(1) + (dx * dx + dy * dy))


def match_plainly(
    dets: list, boxes: list, ignored: list[bool], tau: float, nearest_only: bool = False
) -> list[str]:
    """Hit, error or excused of each detection of one image and class, best score first."""

    def may_take(i: int, j: int) -> bool:
        values = [distance(dets[i]["point"], box) for box in boxes]
        rivals = [v for v, flag in zip(values, ignored, strict=True) if not flag]
        return not nearest_only or values[j] == max(rivals)

    limit = np.float32(1 / (1 + tau**2))
    result = ["error"] * len(dets)
    free = [not flag for flag in ignored]
    start = 0
    while start < len(dets):
        turn = [
            i
            for i in range(start, len(dets))
            if abs(dets[i]["score"] - dets[start]["score"]) < 1e-8
        ]
        start = turn[-1] + 1
        while True:
            nearest = None
            for i in turn:
                for j, box in enumerate(boxes):
                    value = distance(dets[i]["point"], box)
                    usable = free[j] and result[i] == "error" and value >= limit
                    usable = usable and may_take(i, j)
                    if usable and (nearest is None or value > nearest[0]):
                        nearest = (value, i, j)
            if nearest is None:
                break
            result[nearest[1]] = "hit"
            free[nearest[2]] = False
    for i, det in enumerate(dets):
        excused = any(
            flag and distance(det["point"], box) >= limit
            for box, flag in zip(boxes, ignored, strict=True)
        )
        if result[i] == "error" and excused:
            result[i] = "excused"
    return result


def average_precision_plainly(outcomes: list[str], num_objects: int, rule: str) -> float:
    """101 points, from the whole precision-recall curve."""
    recalls, precisions, true = [], [], 0
    for count, outcome in enumerate(outcomes, start=1):
        true += outcome == "hit"
        exact = true / num_objects
        recalls.append(
            float(np.float32(true) / np.float32(num_objects)) if rule == "paper" else exact
        )
        precisions.append(true / count)
    total = 0.0
    for step in range(101):
        threshold = step * 0.01 if rule == "paper" else np.linspace(0, 1, 101)[step]
        reached = [i for i, recall in enumerate(recalls) if recall >= threshold]
        if reached:
            total += precisions[reached[0]] if rule == "paper" else max(precisions[reached[0] :])
    return total / 101


def evaluate_plainly(
    ground_truth: dict,
    detections: list,
    *,
    rule: str = "paper",
    flags: tuple = ("ignore", "iscrowd"),
    max_dets: int = 1000,
    ranges: dict | None = None,
    taus: tuple = TAUS,
    order: np.random.Generator | None = None,
    nearest_only: bool = False,
) -> dict:
    """(range, tau) -> (mean AP, mean maximum recall) over the classes that have objects there."""
    result = {}
    for name, (low, high) in (ranges or RANGES).items():
        for tau in taus:
            values = []
            for category in ground_truth["categories"]:
                outcomes, num_objects = [], 0
                for image in ground_truth["images"]:
                    key = (image["id"], category["id"])
                    records = [
                        a
                        for a in ground_truth["annotations"]
                        if (a["image_id"], a["category_id"]) == key
                    ]
                    dets = [d for d in detections if (d["image_id"], d["category_id"]) == key]
                    dets = sorted(dets, key=lambda d: -d["score"])[:max_dets]
                    ignored = []
                    for record in records:
                        w, h = record["bbox"][2:]
                        size = (w * h) ** 0.5
                        flagged = any(record[flag] for flag in flags)
                        ignored.append(flagged or not low <= size < high)
                    num_objects += ignored.count(False)
                    boxes = [record["bbox"] for record in records]
                    statuses = match_plainly(dets, boxes, ignored, tau, nearest_only)
                    outcomes += [
                        (d["score"], s)
                        for d, s in zip(dets, statuses, strict=True)
                        if s != "excused"
                    ]
                if num_objects == 0:
                    continue
                if order is not None:
                    order.shuffle(outcomes)
                ranked = [
                    status for _, status in sorted(outcomes, key=lambda pair: -float(pair[0]))
                ]
                values.append(
                    (
                        average_precision_plainly(ranked, num_objects, rule),
                        ranked.count("hit") / num_objects,
                    )
                )
            result[name, str(tau)] = tuple(np.mean(values, axis=0)) if values else (None, None)
    return result
