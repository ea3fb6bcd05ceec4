"""The steps of `make demo`: which documented command runs when, on which files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from cpr.demo import neon_trees
from cpr.scheduler import Scheduler, Step, command_environment
from cpr_deploy.cpus import available_cpus

# What a P2PNet is trained on: the clicks, the points that CPRNet made of them, and the box centres
# (which nobody who clicks coarsely would have: the upper bound).
ROWS = ("coarse", "refined", "centre")

# The refined row once more, from model.onnx: what is shipped is what is scored.
DEPLOYED = "onnx"

# Only for pictures and the video; mAP counts every prediction by its score.
SHOWN_SCORE = 0.3

# More commands at once would only wait for each other: there are four trainings in two rows.
MAX_PARALLEL = 3


@dataclass(frozen=True)
class DemoFiles:
    """Where everything of a demo run lies under its output folder."""

    output: Path

    @property
    def data(self) -> Path:
        return self.output / "data"

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def train(self) -> Path:
        return self.data / "train.json"

    @property
    def heldout(self) -> Path:
        return self.data / "heldout.json"

    @property
    def pan_image(self) -> Path:
        return self.data / "whole" / f"{neon_trees.HELDOUT_IMAGE}.png"

    def points(self, row: str) -> Path:
        """Training points of a row: coarse, refined or centre."""
        return self.output / "points" / f"{row}.json"

    @property
    def cprnet(self) -> Path:
        return self.output / "training" / "cprnet"

    def p2pnet(self, row: str) -> Path:
        return self.output / "training" / f"p2pnet_{row}"

    def detections(self, row: str) -> Path:
        return self.output / "heldout" / f"detections_{row}.json"

    def metrics(self, row: str) -> Path:
        return self.output / "heldout" / f"metrics_{row}.json"

    @property
    def model(self) -> Path:
        return self.output / "model.onnx"

    @property
    def pan(self) -> Path:
        return self.output / "data" / "pan.mp4"

    @property
    def video(self) -> Path:
        return self.output / "points.mp4"

    @property
    def video_points(self) -> Path:
        return self.output / "points.jsonl"

    @property
    def summary(self) -> Path:
        return self.output / "summary.json"

    @property
    def report(self) -> Path:
        return self.output / "report.html"


@dataclass(frozen=True)
class DemoSettings:
    """root: the repository, which holds tools/, deploy/ and configs/. quick: a few iterations."""

    root: Path
    output: Path
    seed: int = 0
    device: str = "cpu"
    quick: bool = False
    cache: Path | None = None

    @property
    def files(self) -> DemoFiles:
        return DemoFiles(self.output)

    @property
    def cprnet_config(self) -> Path:
        return self.root / "configs" / "Demo" / "cprnet_r18_neon.yaml"

    @property
    def p2pnet_config(self) -> Path:
        return self.root / "configs" / "Demo" / "p2pnet_r18_neon.yaml"

    def show(self, path: Path) -> str:
        """`path` as it is written into a command: relative to the repository if it lies there."""
        try:
            return str(path.relative_to(self.root))
        except ValueError:
            return str(path)


def build_steps(settings: DemoSettings) -> list[Step]:
    """All steps, in an order that keeps two trainings running side by side."""
    files, show = settings.files, settings.show
    seed = str(settings.seed)

    fetch = ["-m", "cpr.demo.neon_trees", "--output", show(files.data)]
    if settings.cache is not None:
        fetch += ["--cache", str(settings.cache)]
    steps = [
        Step(
            "data",
            _python(fetch),
            outputs=[files.train, files.heldout, files.pan_image, files.data / "data.json"],
        )
    ]
    for row, source in (("coarse", "box"), ("centre", "center")):
        command = ["tools/prepare_points.py", "coarse", "--annotations", show(files.train)]
        command += ["--output", show(files.points(row)), "--source", source, "--seed", seed]
        steps.append(
            Step(
                f"points_{row}",
                _python(command),
                after=["data"],
                inputs=[files.train],
                outputs=[files.points(row)],
            )
        )
    steps += [
        _train_cprnet(settings),
        _train_p2pnet(settings, "coarse", after="points_coarse"),
        _refine(settings),
        _train_p2pnet(settings, "refined", after="refine"),
        _train_p2pnet(settings, "centre", after="points_centre"),
        _export(settings),
        _pan(settings),
        _video(settings),
    ]
    for row in ROWS:
        steps += [_predict(settings, row), _evaluate(settings, row)]
    return [*steps, _predict_deployed(settings), _evaluate(settings, DEPLOYED)]


def run_steps(settings: DemoSettings) -> dict[str, float]:
    """Runs all steps that are not done yet; returns the seconds of each."""
    cpus = available_cpus()
    parallel = min(MAX_PARALLEL, cpus)
    scheduler = Scheduler(
        build_steps(settings),
        settings.output,
        max_parallel=parallel,
        environment=command_environment(max(1, cpus // parallel)),
        working_folder=settings.root,
    )
    return scheduler.run()


def max_iterations(config: Path) -> int:
    """SOLVER.MAX_ITER of a config file that sets it itself."""
    return int(yaml.safe_load(config.read_text(encoding="utf-8"))["SOLVER"]["MAX_ITER"])


def _train_cprnet(settings: DemoSettings) -> Step:
    files = settings.files
    options = {"SOLVER.MAX_ITER": "4", "TEST.EVAL_PERIOD": "2"} if settings.quick else {}
    spec = _spec(settings, files.points("coarse"))
    # Evaluated on the clicks themselves: the RSV curve. No held-out image is touched.
    return _train(
        settings,
        "cprnet",
        config=settings.cprnet_config,
        folder=files.cprnet,
        after="points_coarse",
        points=files.points("coarse"),
        options={"DATASETS.TRAIN": spec, "DATASETS.TEST": spec, **options},
        outputs=[files.cprnet / "rsv_curve.json"],
    )


def _train_p2pnet(settings: DemoSettings, row: str, *, after: str) -> Step:
    files = settings.files
    options = {"SOLVER.MAX_ITER": "4"} if settings.quick else {}
    return _train(
        settings,
        f"p2pnet_{row}",
        config=settings.p2pnet_config,
        folder=files.p2pnet(row),
        after=after,
        points=files.points(row),
        options={
            "DATASETS.TRAIN": _spec(settings, files.points(row)),
            "DATASETS.TEST": "()",
            **options,
        },
    )


def _train(
    settings: DemoSettings,
    name: str,
    *,
    config: Path,
    folder: Path,
    after: str,
    points: Path,
    options: dict[str, str],
    outputs: list[Path] | None = None,
) -> Step:
    command = ["tools/train_net.py", "--config-file", settings.show(config)]
    options = {
        "OUTPUT_DIR": settings.show(folder),
        "SEED": str(settings.seed),
        "MODEL.DEVICE": settings.device,
        **options,
    }
    for key, value in options.items():
        command += [key, value]
    iterations = int(options.get("SOLVER.MAX_ITER", max_iterations(config)))
    return Step(
        name,
        _python(command),
        after=[after],
        inputs=[points, *_config_files(settings, config)],
        outputs=[folder / "model_final.pth", *(outputs or [])],
        folder=folder,
        iterations=iterations,
    )


def _refine(settings: DemoSettings) -> Step:
    files, show = settings.files, settings.show
    weights = files.cprnet / "model_final.pth"
    command = ["tools/refine_points.py", "--config-file", show(settings.cprnet_config)]
    command += ["--weights", show(weights), "--annotations", show(files.points("coarse"))]
    command += ["--image-root", show(files.images), "--output", show(files.points("refined"))]
    command += ["--semantic-points", "MODEL.DEVICE", settings.device]
    return Step(
        "refine",
        _python(command),
        after=["cprnet"],
        inputs=[weights, files.points("coarse"), *_config_files(settings, settings.cprnet_config)],
        outputs=[files.points("refined")],
    )


def _predict(settings: DemoSettings, row: str) -> Step:
    files, show = settings.files, settings.show
    weights = files.p2pnet(row) / "model_final.pth"
    command = ["tools/predict_points.py", "--config-file", show(settings.p2pnet_config)]
    command += ["--weights", show(weights), "--annotations", show(files.heldout)]
    command += ["--image-root", show(files.images), "--output", show(files.detections(row))]
    command += [*_p2pnet_options(settings), "MODEL.DEVICE", settings.device]
    return Step(
        f"predict_{row}",
        _python(command),
        after=[f"p2pnet_{row}"],
        inputs=[weights, files.heldout, *_config_files(settings, settings.p2pnet_config)],
        outputs=[files.detections(row)],
    )


def _predict_deployed(settings: DemoSettings) -> Step:
    files, show = settings.files, settings.show
    command = ["tools/predict_points.py", "--model", show(files.model)]
    command += ["--annotations", show(files.heldout), "--image-root", show(files.images)]
    command += ["--output", show(files.detections(DEPLOYED))]
    return Step(
        f"predict_{DEPLOYED}",
        _python(command),
        after=["export"],
        inputs=[files.model, files.heldout],
        outputs=[files.detections(DEPLOYED)],
    )


def _evaluate(settings: DemoSettings, row: str) -> Step:
    files, show = settings.files, settings.show
    command = ["tools/evaluate_points.py", "--annotations", show(files.heldout)]
    command += ["--predictions", show(files.detections(row)), "--tau", "0.5", "1.0", "2.0"]
    command += ["--output", show(files.metrics(row))]
    return Step(
        f"evaluate_{row}",
        _python(command),
        after=[f"predict_{row}"],
        inputs=[files.detections(row), files.heldout],
        outputs=[files.metrics(row)],
    )


def _export(settings: DemoSettings) -> Step:
    files, show = settings.files, settings.show
    weights = files.p2pnet("refined") / "model_final.pth"
    command = ["deploy/export_onnx.py", "--config-file", show(settings.p2pnet_config)]
    command += ["--weights", show(weights), "--output", show(files.model)]
    command += ["--parity-images", show(files.images), *_p2pnet_options(settings)]
    return Step(
        "export",
        _python(command),
        after=["p2pnet_refined"],
        inputs=[weights, *_config_files(settings, settings.p2pnet_config)],
        outputs=[files.model],
    )


def _pan(settings: DemoSettings) -> Step:
    files, show = settings.files, settings.show
    command = ["-m", "cpr.demo.pan_clip", "--image", show(files.pan_image)]
    command += ["--output", show(files.pan), "--width", "640", "--height", "480"]
    command += ["--frames", "4" if settings.quick else "90", "--fps", "10"]
    return Step(
        "pan", _python(command), after=["data"], inputs=[files.pan_image], outputs=[files.pan]
    )


def _video(settings: DemoSettings) -> Step:
    files, show = settings.files, settings.show
    command = ["deploy/video.py", "--model", show(files.model), "--source", show(files.pan)]
    command += ["--output", show(files.video), "--points", show(files.video_points)]
    if not settings.quick:
        # A network of a few iterations is sure of nothing and would show no point.
        command += ["--score-thresh", str(SHOWN_SCORE)]
    return Step(
        "video",
        _python(command),
        after=["export", "pan"],
        inputs=[files.model, files.pan],
        outputs=[files.video, files.video_points],
    )


def _p2pnet_options(settings: DemoSettings) -> list[str]:
    """A network of four iterations is sure of nothing; without a threshold it finds points."""
    return ["MODEL.P2PNET.SCORE_THRESH", "0.001"] if settings.quick else []


def _config_files(settings: DemoSettings, config: Path) -> list[Path]:
    """The config and all that it may be based on."""
    configs = settings.root / "configs"
    return [config, *sorted(configs.glob("Base-*.yaml")), *sorted(configs.glob("Demo/Base-*.yaml"))]


def _spec(settings: DemoSettings, points: Path) -> str:
    """DATASETS.TRAIN for one point JSON of the demo."""
    return f"('points:{settings.show(points)}@{settings.show(settings.files.images)}',)"


def _python(arguments: list[str]) -> list[str]:
    return [sys.executable, *arguments]
