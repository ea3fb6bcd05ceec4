"""Made-up runs of a paper table, in the files that real ones leave behind."""

import json
from pathlib import Path

import numpy as np

from cpr.evaluation.point_ap import evaluate_points
from cpr.evaluation.semantic_variance import rsv
from cpr.experiments.results import RowResult, RunResult, TableResult


def write(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def scatter(dataset, sigma, rng):
    """A point per annotation: off its box centre by a normal share `sigma` of the box, in it."""
    points = []
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        fx, fy = np.clip(rng.normal(0.5, sigma, 2), 0.02, 0.98)
        points.append([x + float(fx) * w, y + float(fy) * h])
    return points


def with_points(dataset, points, **more):
    """`dataset` with `point` per annotation, and lists of other values by key."""
    columns = {"point": points, **more}
    annotations = [
        {**annotation, **{key: values[i] for key, values in columns.items()}}
        for i, annotation in enumerate(dataset["annotations"])
    ]
    return {**dataset, "annotations": annotations}


def refine(dataset, clicks, strength, rng, *, semantic=True, share=0.9):
    """`dataset` whose points went `strength` of the way from the click to the centre."""
    refined, moved, cloud = [], [], []
    for annotation, click in zip(dataset["annotations"], clicks, strict=True):
        x, y, w, h = annotation["bbox"]
        way = strength + rng.normal(0, 0.5, 2)  # for some it is worse than none
        target = np.array(click) * (1 - way) + way * (x + w / 2, y + h / 2)
        moves = bool(rng.random() < share)
        target = np.clip(target, (x, y), (x + w, y + h)) if moves else np.array(click)
        refined.append(target.tolist())
        moved.append(moves)
        cloud.append((target + rng.normal(0, 0.12, (12 * moves, 2)) * (w, h)).tolist())
    more = {"coarse_point": clicks, "refined": moved, "refine_score": [0.5] * len(refined)}
    if semantic:
        more["semantic_points"] = cloud
    return with_points(dataset, refined, **more)


def refinement_figures(refined):
    """What `refinement_metrics` says of a refined point JSON, in % where that does."""
    boxes = np.array([a["bbox"] for a in refined["annotations"]])
    figures = {
        "objects": float(len(boxes)),
        "refined": 100 * float(np.mean([a["refined"] for a in refined["annotations"]])),
        "score": 0.5,
        "kept_I": 31.0,
        "kept_II": 88.0,
        "kept_III": 91.5,
        "kept": 27.5,
    }
    for suffix, key in (("coarse", "coarse_point"), ("refined", "point")):
        values = rsv(np.array([a[key] for a in refined["annotations"]]), boxes)
        figures[f"rsv_{suffix}"] = values["rsv"]
        figures[f"inside_{suffix}"] = 100 * values["inside"]
        figures[f"distance_{suffix}"] = values["mean_distance"]
    return figures


def detect(dataset, sigma, rng, *, misses=0.15):
    """Detections: most objects, scattered by `sigma` of the box, and some that are none."""
    detections = []
    images = {image["id"]: image for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        x, y, w, h = annotation["bbox"]
        image = images[annotation["image_id"]]
        record = {"image_id": image["id"], "category_id": annotation["category_id"]}
        if rng.random() >= misses:
            point = [x + w * rng.normal(0.5, sigma), y + h * rng.normal(0.5, sigma)]
            detections.append({**record, "point": point, "score": rng.uniform(0.3, 1.0)})
        if rng.random() < 0.4:
            point = [rng.uniform(0, image["width"]), rng.uniform(0, image["height"])]
            detections.append({**record, "point": point, "score": rng.uniform(0.05, 0.6)})
    return detections


def curve(figures, epochs=12):
    """rsv_curve.json: from the clicks to `figures` of the refined points."""
    entries = []
    for epoch in range(1, epochs + 1):
        way = 1 - np.exp(-3.0 * epoch / epochs)
        entry = {"iteration": 100 * epoch, "epoch": float(epoch), "dataset": "points:coarse.json"}
        for name in ("rsv", "inside", "distance"):
            before, after = figures[f"{name}_coarse"], figures[f"{name}_refined"]
            entry[f"{name}_coarse"] = before
            entry[f"{name}_refined"] = float(before + way * (after - before))
        entry["refined"] = float(way * figures["refined"])
        entries.append(entry)
    return entries


def make_table(
    folder,
    train,
    held_out,
    image_root,
    rows,
    *,
    seeds=3,
    semantic=True,
    table="1",
    title="refinement",
    dataset="scenes",
    epochs=(),
):
    """A TableResult with all its files in `folder`.

    rows: {key: (label, strength, sigma, finished seeds)}; strength of the refinement, None: trained
    on the clicks, 1: on the centres; sigma of the detections as a share of the box.
    epochs: those of CPRNet of which refined points were kept.
    """
    folder = Path(folder)
    ground_truth = write(folder / "held_out.json", held_out)
    clicks, files = {}, {}
    for seed in range(seeds):
        clicks[seed] = scatter(train, 0.22, np.random.default_rng(seed))
        files[seed] = write(folder / f"coarse_{seed}.json", with_points(train, clicks[seed]))
    results = []
    for place, (key, (label, strength, sigma, finished)) in enumerate(rows.items()):
        runs = []
        for seed in range(finished):
            rng = np.random.default_rng((seed, place))
            home = folder / key / str(seed)
            refinement = rsv_curve = None
            points, refined_at = files[seed], {}
            if strength == 1:
                centres = [
                    [a["bbox"][0] + a["bbox"][2] / 2, a["bbox"][1] + a["bbox"][3] / 2]
                    for a in train["annotations"]
                ]
                points = write(home / "centre.json", with_points(train, centres))
            elif strength is not None:
                refined = refine(train, clicks[seed], strength, rng, semantic=semantic)
                points = write(home / "refined.json", refined)
                figures = refinement_figures(refined)
                refinement = write(home / "refinement.json", figures)
                rsv_curve = write(home / "rsv_curve.json", curve(figures))
                for epoch in epochs:
                    way = strength * epoch / max(epochs)
                    early = refine(train, clicks[seed], way, np.random.default_rng(1))
                    refined_at[epoch] = write(home / f"refined_{epoch}.json", early)
            detections = detect(held_out, sigma + 0.02 * rng.normal(), rng)
            metrics = evaluate_points(held_out, detections)
            runs.append(
                RunResult(
                    seed=seed,
                    metrics=write(home / "metrics.json", metrics),
                    detections=write(home / "detections.json", detections),
                    points=points,
                    refinement=refinement,
                    rsv_curve=rsv_curve,
                    seconds={"cprnet": 1200.0 + 10 * seed, "p2pnet": 600.0},
                    refined_at=refined_at,
                )
            )
        results.append(
            RowResult(key, label, {"COCO": 40.0 + place}, ["MODEL.CPRNET.RADIUS 5"], runs)
        )
    return TableResult(
        table=table,
        title=title,
        dataset=dataset,
        seeds=seeds,
        rows=results,
        held_out=ground_truth,
        clicks=files,
        image_root=Path(image_root),
        settings={"level": "p2", "R": 5, "sizes": [320, 400]},
        command=f"python tools/run_experiments.py --table {table} --dataset {dataset}",
        machine="2 cores, no GPU",
        date="2026-11-22",
    )
