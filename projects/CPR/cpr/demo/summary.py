"""What a finished demo run found: summary.json, the table and report.html."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cpr.data.point_json import category_index, is_ignored, load_detections, load_points
from cpr.demo.pipeline import DEPLOYED, ROWS, DemoFiles, DemoSettings
from cpr.evaluation.gap_closed import gap_closed
from cpr.evaluation.point_ap import bootstrap_samples, evaluate_points
from cpr.evaluation.semantic_variance import relative_positions, rsv
from cpr.visualization.annotations import draw_detections, object_crop
from cpr.visualization.draw import montage
from cpr.visualization.plots import ap_bars, relative_position_plot, rsv_curve
from cpr.visualization.report import Report
from cpr_deploy.files import InputError, read_json, write_json
from cpr_deploy.image_files import read_rgb

TAUS = ("0.5", "1.0", "2.0")
RESAMPLES = 1000
CROPS = 12
HELDOUT_PICTURES = 4
# Points of PyTorch and ONNX that are farther apart are not the same point.
MATCH_PX = 0.5

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python",
    "onnx",
    "onnxruntime",
    "av",
    "cpr-point-localization",
)


def build_summary(settings: DemoSettings, step_seconds: Mapping[str, float], wall: float) -> dict:
    """The content of summary.json, from the files that the steps wrote.

    step_seconds: seconds of each step; wall: seconds of the whole run, resumed parts included.
    """
    files = settings.files
    heldout = load_points(files.heldout, require="box")
    found = {row: load_detections(files.detections(row), heldout) for row in (*ROWS, DEPLOYED)}
    # (RESAMPLES, 3) per row, on the same resampled tiles.
    samples = {
        row: bootstrap_samples(
            heldout,
            found[row],
            taus=[float(tau) for tau in TAUS],
            resamples=RESAMPLES,
            seed=settings.seed,
        )
        for row in ROWS
    }
    ap = {row: read_json(files.metrics(row))["AP"]["all"] for row in ROWS}
    rows = []
    for row in ROWS:
        intervals = {tau: _interval(samples[row][:, i]) for i, tau in enumerate(TAUS)}
        rows.append(
            {
                "train_points": row,
                "AP": {tau: ap[row][tau] for tau in TAUS},
                # Of mAP at tau = 1.
                "interval": intervals["1.0"],
                "intervals": intervals,
                "seconds": round(step_seconds[f"p2pnet_{row}"], 1),
            }
        )
    at_one = {row: ap[row]["1.0"] or 0.0 for row in ROWS}
    main = TAUS.index("1.0")
    difference = samples["centre"][:, main] - samples["coarse"][:, main]
    gain = samples["refined"][:, main] - samples["coarse"][:, main]
    error = float(np.nanstd(difference))

    points = load_points(files.points("refined"), require="point")
    objects = [a for a in points["annotations"] if not is_ignored(a)]
    boxes = np.array([a["bbox"] for a in objects])
    before = rsv(_points(objects, "coarse_point"), boxes)
    after = rsv(_points(objects, "point"), boxes)
    return {
        "data": read_json(files.data / "data.json"),
        "rows": rows,
        "rsv": {
            "coarse": before["rsv"],
            "refined": after["rsv"],
            "inside_coarse": before["inside"],
            "inside_refined": after["inside"],
            "mean_distance_coarse": before["mean_distance"],
            "mean_distance_refined": after["mean_distance"],
            "objects": after["count"],
            "share_refined": float(np.mean([a.get("refined", False) for a in objects])),
        },
        "chance": chance_level(heldout, seed=settings.seed),
        "gap_closed": gap_closed(
            at_one["coarse"], at_one["refined"], at_one["centre"], standard_error=error
        ),
        "refined_minus_coarse": {
            "mAP": at_one["refined"] - at_one["coarse"],
            "interval": _interval(gain),
        },
        "onnx": {
            **compare_detections(found["refined"], found[DEPLOYED]),
            "AP": {tau: read_json(files.metrics(DEPLOYED))["AP"]["all"][tau] for tau in TAUS},
        },
        "video": video_facts(files.video_points),
        "versions": versions(),
        "device": settings.device,
        "quick": settings.quick,
        "seed": settings.seed,
        "seconds": round(wall, 1),
        "step_seconds": {name: round(value, 1) for name, value in step_seconds.items()},
    }


def write_summary(settings: DemoSettings, summary: dict) -> None:
    write_json(settings.files.summary, summary, indent=1)


def format_summary(summary: dict) -> str:
    """The demo's table as text."""
    lines = [f"{'P2PNet trained on':<18}{'mAP at tau = 0.5':>18}{'1.0':>8}{'2.0':>8}   95% at 1.0"]
    for row in summary["rows"]:
        values = [_percent(row["AP"][tau]) for tau in TAUS]
        low, high = (_percent(value) for value in row["interval"])
        lines.append(
            f"{_row_name(row['train_points']):<18}{values[0]:>18}{values[1]:>8}{values[2]:>8}"
            f"   {low} to {high}"
        )
    chance = "".join(f"{_percent(summary['chance'][tau]):>8}" for tau in TAUS[1:])
    lines.append(f"{'(random points)':<18}{_percent(summary['chance']['0.5']):>18}{chance}")
    figures = summary["rsv"]
    lines += [
        "",
        f"RSV of the training points: {_number(figures['coarse'])} -> "
        f"{_number(figures['refined'])}; inside their box: {_percent(figures['inside_coarse'])} % "
        f"-> {_percent(figures['inside_refined'])} %",
        f"gap closed: {_gap(summary['gap_closed'])}",
        f"seconds: {summary['seconds']:.0f}",
    ]
    return "\n".join(lines)


def write_report(settings: DemoSettings, summary: dict) -> None:
    """Writes report.html from the summary and the files of the run."""
    files = settings.files
    report = Report(
        "From one click per object to points on video",
        f"CPR on {summary['data']['name']}: clicks, refined by CPRNet, train P2PNet; scored on an"
        " image that was never trained or tuned on.",
    )
    if summary["quick"]:
        report.paragraph(
            "This was a quick run of a few iterations: it shows that everything works, its figures"
            " mean nothing."
        )
    _add_results(report, summary)
    _add_refinement(report, files, summary)
    _add_heldout(report, files)
    _add_deployment(report, files, summary)
    _add_method(report, summary)
    report.save(files.report)


def chance_level(ground_truth: dict, *, seed: int, per_image: int = 100, draws: int = 5) -> dict:
    """mAP of points drawn evenly over the images, which know nothing: {tau: fraction}.

    Where objects stand close, tau = 1 and 2 reach far beyond a box, and any point matches
    something; a mAP says little without this number beside it.
    """
    rng = np.random.default_rng(seed)
    category = ground_truth["categories"][0]["id"]
    totals = dict.fromkeys(TAUS, 0.0)
    for _ in range(draws):
        detections = [
            {
                "image_id": image["id"],
                "category_id": category,
                "point": [rng.uniform(0, image["width"]), rng.uniform(0, image["height"])],
                "score": rng.random(),
            }
            for image in ground_truth["images"]
            for _ in range(per_image)
        ]
        metrics = evaluate_points(ground_truth, detections, taus=[float(tau) for tau in TAUS])
        for tau in TAUS:
            totals[tau] += metrics["AP"]["all"][tau] or 0.0
    return {tau: total / draws for tau, total in totals.items()}


def compare_detections(first: list[dict], second: list[dict]) -> dict:
    """How far two detections JSONs of the same images are apart.

    Points of the same image and class are paired one to one, nearest first, up to MATCH_PX.

    Returns:
        {"points": number in `first`, "max_point_difference_px": largest distance in a pair,
         "max_score_difference", "unmatched": points of either without a partner}
    """
    groups: dict[tuple, tuple[list, list]] = {}
    for side, detections in enumerate((first, second)):
        for detection in detections:
            key = (detection["image_id"], detection["category_id"])
            groups.setdefault(key, ([], []))[side].append((*detection["point"], detection["score"]))
    distances, score_differences, unmatched = [0.0], [0.0], 0
    for ours, theirs in groups.values():
        a, b = np.array(ours).reshape(-1, 3), np.array(theirs).reshape(-1, 3)
        distance = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=2)
        taken_a, taken_b = set(), set()
        for flat in np.argsort(distance, axis=None, kind="stable"):
            i, j = divmod(int(flat), len(b))
            if distance[i, j] > MATCH_PX:
                break
            if i not in taken_a and j not in taken_b:
                taken_a.add(i)
                taken_b.add(j)
                distances.append(float(distance[i, j]))
                score_differences.append(float(abs(a[i, 2] - b[j, 2])))
        unmatched += len(a) + len(b) - 2 * len(taken_a)
    return {
        "points": len(first),
        "max_point_difference_px": max(distances),
        "max_score_difference": max(score_differences),
        "unmatched": unmatched,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # Detectron2's distribution has another name where it comes from PyPI.
    for name in ("detectron2", "sal-detectron2"):
        try:
            found["detectron2"] = importlib.metadata.version(name)
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _add_results(report: Report, summary: dict) -> None:
    rows = {row["train_points"]: row for row in summary["rows"]}
    gain = summary["refined_minus_coarse"]
    report.cards(
        [
            (_percent(rows["coarse"]["AP"]["1.0"]), "mAP at tau 1, trained on clicks"),
            (_percent(rows["refined"]["AP"]["1.0"]), "mAP at tau 1, trained on refined points"),
            (_gap(summary["gap_closed"]), "of the gap to box centres closed"),
            (
                " → ".join(f"{summary['rsv'][key] or 0:.3f}" for key in ("coarse", "refined")),
                "RSV of the training points",
            ),
        ]
    )
    report.section("Localization on the held-out image")
    body = []
    for name, row in rows.items():
        low, high = (_percent(value) for value in row["interval"])
        values = [_percent(row["AP"][tau]) for tau in TAUS]
        body.append([_row_name(name), *values, f"{low} to {high}", f"{row['seconds']:.0f}"])
    chance = [_percent(summary["chance"][tau]) for tau in TAUS]
    body.append(["(random points, no network)", *chance, "", ""])
    report.table(
        ["trained on", "tau 0.5", "tau 1.0", "tau 2.0", "95 % at tau 1.0", "training s"],
        body,
        "mAP in %. The interval is a bootstrap over the held-out tiles: it says how much the choice"
        " of tiles matters, not how much another training seed would. Random points: 100 a tile, to"
        " show how much a large tau gives away where objects stand close.",
    )
    low, high = (_percent(value) for value in gain["interval"])
    report.paragraph(
        f"Refined minus clicks at tau 1: {_percent(gain['mAP'])} mAP (95 %: {low} to {high}, on the"
        " same tiles). Gap closed = (refined - clicks) / (centres - clicks):"
        f" {_gap(summary['gap_closed'])}."
    )
    report.image(
        ap_bars(
            {_row_name(name): _numbers(row["AP"]) for name, row in rows.items()},
            {_row_name(name): row["intervals"] for name, row in rows.items()},
        ),
        "mAP of the same P2PNet, trained in the same way on three kinds of points.",
    )


def _add_refinement(report: Report, files: DemoFiles, summary: dict) -> None:
    figures = summary["rsv"]
    report.section("Refinement of the clicks")
    report.table(
        ["training points", "RSV", "inside their box", "mean point-box distance"],
        [
            [
                name,
                _number(figures[key]),
                f"{_percent(figures[f'inside_{key}'])} %",
                _number(figures[f"mean_distance_{key}"]),
            ]
            for name, key in (("clicks", "coarse"), ("refined points", "refined"))
        ],
        f"{figures['objects']} objects; CPRNet moved {_percent(figures['share_refined'])} % of"
        " them, the others kept their click. RSV covers the points inside their box only.",
    )
    points = load_points(files.points("refined"), require="point")
    objects = [a for a in points["annotations"] if not is_ignored(a)]
    boxes = np.array([a["bbox"] for a in objects])
    report.image(
        relative_position_plot(
            relative_positions(_points(objects, "coarse_point"), boxes),
            relative_positions(_points(objects, "point"), boxes),
        ),
        "Where the points lie relative to their object's box (white square), before and after.",
    )
    curve = read_json(files.cprnet / "rsv_curve.json")
    curve = [entry for entry in curve if entry.get("rsv_refined") is not None]
    if curve:
        report.image(
            rsv_curve(
                [entry["epoch"] for entry in curve],
                [entry["rsv_refined"] for entry in curve],
                coarse=figures["coarse"],
                # In percent in that file.
                inside=[entry["inside_refined"] / 100 for entry in curve],
            ),
            "RSV of the refined points while CPRNet trains. Early on, nearly all objects fall back"
            " to their click.",
        )
    # Drawn by lot, not picked.
    rng = np.random.default_rng(summary["seed"])
    chosen = rng.choice(len(objects), size=min(CROPS, len(objects)), replace=False)
    records = {image["id"]: image for image in points["images"]}
    crops, captions = [], []
    for index in sorted(chosen.tolist()):
        annotation = objects[index]
        image = read_rgb(files.images / records[annotation["image_id"]]["file_name"])
        crops.append(object_crop(image, annotation))
        captions.append(f"object {annotation['id']}, score {annotation['refine_score']:.2f}")
    report.image(
        montage(crops, captions, columns=4),
        f"{len(crops)} objects drawn by lot: click (green), semantic points (red), refined point"
        " (yellow), box (white; never seen in training).",
    )


def _add_heldout(report: Report, files: DemoFiles) -> None:
    report.section("Predictions on the held-out image")
    heldout = load_points(files.heldout, require="box")
    labels = category_index(heldout)
    found = {row: load_detections(files.detections(row), heldout) for row in ROWS}
    images = heldout["images"]
    shown = [
        images[i] for i in np.linspace(0, len(images) - 1, HELDOUT_PICTURES).round().astype(int)
    ]
    shown_ids = {record["id"] for record in shown}
    # Scores of networks trained on other points do not compare; the same number of points does.
    objects = [
        a for a in heldout["annotations"] if a["image_id"] in shown_ids and not is_ignored(a)
    ]
    pictures, captions = [], []
    for row in ("coarse", "refined"):
        best = sorted(
            (d for d in found[row] if d["image_id"] in shown_ids), key=lambda d: -d["score"]
        )[: len(objects)]
        for record in shown:
            image = read_rgb(files.images / record["file_name"])
            annotations = [a for a in heldout["annotations"] if a["image_id"] == record["id"]]
            detections = [d for d in best if d["image_id"] == record["id"]]
            pictures.append(draw_detections(image, detections, labels, annotations=annotations))
            captions.append(f"trained on {_row_name(row)}: {len(detections)} points")
    report.image(
        montage(pictures, captions, columns=len(shown)),
        f"The {len(objects)} best predicted points of each network, as many as there are objects,"
        " and the annotated boxes, on evenly spaced tiles.",
    )


def _add_deployment(report: Report, files: DemoFiles, summary: dict) -> None:
    report.section("Deployed")
    onnx, video = summary["onnx"], summary["video"]
    report.paragraph(
        f"On the held-out tiles model.onnx gives the {onnx['points']} points of the PyTorch model"
        f" within {onnx['max_point_difference_px']:.4f} px, {onnx['unmatched']} without a partner;"
        f" its mAP at tau 1 is {_percent(onnx['AP']['1.0'])}."
        f" On the pan over the held-out image it found {video['points_per_frame']:.0f} points a"
        f" frame at {video['fps']:.1f} frames a second ({video['frames']} frames)."
    )
    still = _middle_frame(files.video)
    if still is not None:
        report.image(still, "A frame of points.mp4.")


def _add_method(report: Report, summary: dict) -> None:
    report.section("How this was made")
    data = summary["data"]
    report.table(
        ["split", "tiles", "objects", "regions ignored"],
        [
            [name, counts["images"], counts["objects"], counts["ignored"]]
            for name, counts in data["splits"].items()
        ],
        f"{data['source']}. Licence: {data['licence']}.",
    )
    report.paragraph(
        "Clicks are simulated: a rectified Gaussian around each box centre, sigma a quarter of the"
        " box (Eq. 11). All networks start from random weights. The settings were chosen on a part"
        " of the training image; the held-out image lies 13 km away and is scored once."
    )
    report.table(["step", "seconds"], [[k, f"{v:.1f}"] for k, v in summary["step_seconds"].items()])
    report.table(["software", "version"], [list(item) for item in summary["versions"].items()])
    report.paragraph(f"Device: {summary['device']}. Seed: {summary['seed']}.")


def video_facts(points: Path) -> dict:
    """Frames of a stream-record file, its points per frame, and frames a second.

    The speed is that of the path from decoding to points, by the median frame; drawing and encoding
    are not in it.
    """
    records = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()]
    frames = [record for record in records if record["type"] == "frame"]
    if not frames:
        raise InputError(f"{points}: holds no frame. Delete it and run again.")
    milliseconds = [sum(record["latency_ms"].values()) for record in frames]
    return {
        "frames": len(frames),
        "fps": round(1000 / max(float(np.median(milliseconds)), 1e-3), 2),
        "points_per_frame": round(float(np.mean([len(r["points"]) for r in frames])), 1),
    }


def _middle_frame(path: Path) -> np.ndarray | None:
    """RGB (H, W, 3) of the frame in the middle of a video, None if it has no frame."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[len(frames) // 2] if frames else None


def _points(annotations: list[dict], key: str) -> np.ndarray:
    try:
        return np.array([annotation[key] for annotation in annotations]).reshape(-1, 2)
    except KeyError:
        raise InputError(
            f"the refined points lack `{key}`. Delete that file and run again."
        ) from None


def _interval(samples: np.ndarray) -> list[float]:
    """The central 95 % of the bootstrap samples."""
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return [float(low), float(high)]


def _row_name(row: str) -> str:
    return {"coarse": "clicks", "refined": "refined points", "centre": "box centres"}[row]


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value or 0.0 for key, value in values.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _gap(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
