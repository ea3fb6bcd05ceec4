"""From the rows of a table to the commands that make them.

Steps are named after what they make, so rows that have something in common share it: clicks and
true centres of a seed, a CPRNet that serves all its refinements, a localizer that is a row of one
table and the baseline of another.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpr_deploy.files import InputError

from ..refiners import get_refiner
from ..scheduler import Step
from . import recipes
from .data import ExperimentData
from .recipes import Recipe
from .results import RowResult, RunResult
from .settings import Settings
from .tables import PAPER_RADII, Keys, Row, Standard

# Times that the clicks of some training images are refined while CPRNet trains: the RSV curve.
CURVE_POINTS = 4


@dataclass(frozen=True)
class Experiment:
    """Everything that the commands of an experiment need to know.

    Attributes:
        root: the repository, with tools/ and configs/.
        output: the data set's folder of results.
        data: `train`, `val` and `curve` (some images of `train`) are COCO files in `output`/data.
        masks: simulated clicks fall on the object's mask instead of in its box.
        weights: ResNet depth -> file with ImageNet weights, or recipes.RANDOM.
        options: config keys for all trainings, from the command line.
        plugins: modules that register refiners.
        num_gpus: processes of each training.
    """

    root: Path
    output: Path
    data: ExperimentData
    settings: Settings
    recipe: Recipe
    masks: bool
    weights: Mapping[int, str]
    device: str
    options: Sequence[str] = ()
    plugins: Sequence[str] = ()
    num_gpus: int = 1

    @property
    def standard(self) -> Standard:
        """What the rows of the tables vary."""
        if self.recipe.adapts:
            return Standard.of(self.settings)
        keys = recipes.leaves(self.recipe.config("RepPoints"), ())
        return Standard(radii=PAPER_RADII, pseudo_box=keys["MODEL.PSEUDO_BOX.SIZE"])

    def file(self, kind: str, seed: int, name: str) -> Path:
        return self.output / f"seed{seed}" / kind / name

    @property
    def curve(self) -> Path:
        return self.output / "data" / "curve.json"


class Plan:
    """Collects the steps of rows; each step once."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._steps: dict[str, Step] = {}

    @property
    def steps(self) -> list[Step]:
        return list(self._steps.values())

    def add(self, row: Row, seed: int, *, box_ap: bool = False) -> RunResult:
        """The steps of one row with one seed, and where their results will lie.

        Raises:
            InputError: the row needs weights that were not given.
        """
        row = self._without_the_standard(row, seed)
        points, chain = self._points(row, seed)
        name, folder = self._train_localizer(row, seed, points, chain[-1:], box_ap=box_ap)
        refined = row.points not in ("coarse", "centre", "boxes")
        curve = None
        if row.points == "cpr":
            curve = self._cprnet_folder(row, seed) / "rsv_curve.json"
        return RunResult(
            seed=seed,
            metrics=folder / "inference" / "metrics.json",
            detections=folder / "inference" / "detections.json",
            points=points,
            refinement=points.with_suffix(".report.json") if refined else None,
            rsv_curve=curve,
            # Filled in by `run.with_details` when the steps are done.
            seconds=dict.fromkeys([*chain, name], 0.0),
        )

    def _without_the_standard(self, row: Row, seed: int) -> Row:
        """The row without what is the standard anyway, so that it shares those steps."""
        depths, level = row.depths, row.level
        plain = {}
        parts = {"CPRNet": ("cprnet", "refine"), row.localizer: ("localizer_keys",)}
        for architecture, names in parts.items():
            config, options = self._training_config(architecture, seed, {}, None, None)
            standard = recipes.leaves(config, options)
            if architecture == "CPRNet":
                level = None if level == standard["MODEL.CPRNET.IN_FEATURE"] else level
                depth = standard["MODEL.RESNETS.DEPTH"]
                depths = None if depths == (depth, depth) else depths
            for name in names:
                keys = getattr(row, name)
                plain[name] = {k: v for k, v in keys.items() if standard.get(k) != v}
        return dataclasses.replace(row, depths=depths, level=level, **plain)

    def _points(self, row: Row, seed: int) -> tuple[Path, list[str]]:
        """The file that the row's localizer is trained on, and the steps that lead to it."""
        if row.points == "boxes":
            return self.experiment.data.train, []
        if row.points in ("coarse", "centre"):
            return self._clicks(seed, row.points)
        coarse, chain = self._clicks(seed, "coarse")
        if row.points == "cpr":
            trained, folder, config, options = self._train_cprnet(row, seed, coarse, chain[-1])
        elif row.points == "self":
            # The pseudo-box localizer of Table 1, on the same clicks.
            baseline = Row("", "", "coarse", localizer="RepPoints")
            trained, folder = self._train_localizer(baseline, seed, coarse, chain)
            config, options = self._training_config("RepPoints", seed, {}, None, None)
        elif get_refiner(row.points).needs_network:
            trained, folder, config, options = self._train_refiner(row, seed, coarse, chain)
        else:
            trained, folder = chain.pop(), None
            config, options = row.refiner_config, list(self.experiment.options)
        refined, step = self._refine(row, seed, coarse, trained, folder, config, options)
        return refined, [*chain, trained, step]

    def _clicks(self, seed: int, kind: str, source: Path | None = None) -> tuple[Path, list[str]]:
        """Simulated clicks (Eq. 11) or true centres of the training part (or of `source`)."""
        experiment = self.experiment
        annotations = source or experiment.data.train
        stem = kind if source is None else f"{kind}_{source.stem}"
        path = experiment.file("points", seed, f"{stem}.json")
        how = "center" if kind == "centre" else ("mask" if experiment.masks else "box")
        command = self._tool("prepare_points.py", "coarse", "--annotations", annotations)
        command += ["--output", str(path), "--source", how, "--seed", str(seed)]
        name = self._add(
            Step(
                f"seed{seed}-{stem}",
                command,
                inputs=[annotations],
                outputs=[path],
                identity=f"clicks {how} {seed}",
            )
        )
        return path, [name]

    def _train_cprnet(
        self, row: Row, seed: int, coarse: Path, after: str
    ) -> tuple[str, Path, Path, list[str]]:
        curve, (curve_step,) = self._clicks(seed, "coarse", self.experiment.curve)
        depth = row.depths[0] if row.depths else None
        config, options = self._training_config("CPRNet", seed, row.cprnet, row.level, depth)
        folder = self._cprnet_folder(row, seed)
        images = self.experiment.data.train_images
        period = max(1, self._iterations(config, options) // CURVE_POINTS)
        name = self._train(
            f"seed{seed}-{folder.name}",
            config,
            [*options, "TEST.EVAL_PERIOD", str(period)],
            folder,
            depth,
            train=f"points:{coarse}@{images}",
            test=f"points:{curve}@{images}",
            after=[after, curve_step],
            inputs=[coarse, curve],
            outputs=[folder / "rsv_curve.json"],
        )
        return name, folder, config, options

    def _train_refiner(
        self, row: Row, seed: int, coarse: Path, after: list[str]
    ) -> tuple[str, Path, Path, list[str]]:
        """The network of a refiner of the user's, on the clicks."""
        config = row.refiner_config
        if config is None:
            raise InputError(f"refiner {row.points} needs a network: --refiner {row.points}=CONFIG")
        architecture = recipes.leaves(config, ())["MODEL.META_ARCHITECTURE"]
        config, options = self._training_config(architecture, seed, {}, None, None, config=config)
        folder = self.experiment.file("training", seed, slug(f"{row.points}_{config.stem}"))
        name = self._train(
            f"seed{seed}-{folder.name}",
            config,
            options,
            folder,
            None,
            train=f"points:{coarse}@{self.experiment.data.train_images}",
            after=after,
            inputs=[coarse],
        )
        return name, folder, config, options

    def _cprnet_folder(self, row: Row, seed: int) -> Path:
        parts = [row.level] if row.level else []
        parts += [f"r{row.depths[0]}"] if row.depths else []
        return self.experiment.file("training", seed, slug("cprnet", *parts, **row.cprnet))

    def _refine(
        self,
        row: Row,
        seed: int,
        coarse: Path,
        after: str,
        folder: Path | None,
        config: Path | None,
        options: list[str],
    ) -> tuple[Path, str]:
        """The row's refiner on the clicks; `folder` holds the network that it uses, if any."""
        weights = None if folder is None else folder / "model_final.pth"
        network = config.stem if config else "clicks"
        stem = slug(f"{row.points}_{folder.name if folder else network}", **row.refine)
        output = self.experiment.file("points", seed, f"{stem}.json")
        report = output.with_suffix(".report.json")
        options = [*options, *recipes.as_options(row.refine)]
        command = self._tool("refine_points.py", "--refiner", row.points)
        command += [word for plugin in self.experiment.plugins for word in ("--plugin", plugin)]
        command += ["--config-file", str(config)] if config else []
        command += ["--weights", str(weights)] if weights else []
        command += ["--annotations", str(coarse)]
        command += ["--image-root", str(self.experiment.data.train_images)]
        command += ["--output", str(output), "--report", str(report), "--semantic-points"]
        name = self._add(
            Step(
                f"seed{seed}-{stem}",
                [*command, *options, "MODEL.DEVICE", self.experiment.device],
                after=[after],
                inputs=[coarse, *([weights] if weights else [])],
                outputs=[output, report],
                identity=f"{row.points} {self._describe(config, options, known=bool(weights))}",
            )
        )
        return output, name

    def _describe(self, config: Path | None, options: list[str], *, known: bool) -> str:
        """What a refinement is; a config with keys of a plugin (not `known`) goes by its text."""
        if known:
            return recipes.describe_config(config, options)
        return f"{config.read_text(encoding='utf-8') if config else ''} {' '.join(options)}"

    def _train_localizer(
        self, row: Row, seed: int, points: Path, after: list[str], *, box_ap: bool = False
    ) -> tuple[str, Path]:
        depth = row.depths[1] if row.depths else None
        config, options = self._training_config(
            row.localizer, seed, row.localizer_keys, None, depth
        )
        if box_ap:
            options += ["TEST.BOX_AP", "True"]
        parts = [f"r{row.depths[1]}"] if row.depths else []
        source = "boxes" if row.points == "boxes" else points.stem
        name = slug(row.localizer.lower(), *parts, source, **row.localizer_keys)
        folder = self.experiment.file("training", seed, name)
        data = self.experiment.data
        kind = "boxes" if row.points == "boxes" else "points"
        step = self._train(
            f"seed{seed}-{name}",
            config,
            options,
            folder,
            depth,
            train=f"{kind}:{points}@{data.train_images}",
            test=f"{kind}:{data.val}@{data.val_images}",
            after=after,
            inputs=[points, data.val],
            outputs=[
                folder / "inference" / "metrics.json",
                folder / "inference" / "detections.json",
            ],
        )
        return step, folder

    def _training_config(
        self,
        architecture: str,
        seed: int,
        keys: Keys,
        level: str | None,
        depth: int | None,
        *,
        config: Path | None = None,
    ) -> tuple[Path, list[str]]:
        """Config file and options of a training: settings, level, depth, row, command line."""
        experiment = self.experiment
        config = config or experiment.recipe.config(architecture)
        merged: dict[str, object] = {"SEED": seed}
        if experiment.recipe.adapts:
            merged.update(recipes.settings_keys(experiment.settings, architecture))
            if architecture in ("CPRNet", "P2PNet"):
                level = level or experiment.settings.level
        if level:
            merged.update(recipes.level_keys(config, level, architecture))
        if depth:
            merged.update(recipes.depth_keys(depth))
        if self._weights(depth) == recipes.RANDOM:
            merged.update(recipes.RANDOM_KEYS)
        # The row's own keys last: they are what the row is.
        options = [*recipes.as_options(merged), *experiment.options, *recipes.as_options(keys)]
        return config, options

    def _weights(self, depth: int | None) -> str:
        weights = self.experiment.weights
        if depth is None:
            return weights.get(0, "")
        if depth not in weights:
            raise InputError(f"needs ImageNet weights of R-{depth}: --weights {depth}=FILE")
        return weights[depth]

    def _train(
        self,
        name: str,
        config: Path,
        options: list[str],
        folder: Path,
        depth: int | None,
        *,
        train: str,
        after: list[str],
        inputs: list[Path],
        test: str | None = None,
        outputs: Sequence[Path] = (),
    ) -> str:
        command = self._tool("train_net.py", "--config-file", config)
        if self.experiment.num_gpus > 1:
            command += ["--num-gpus", str(self.experiment.num_gpus)]
        weights = self._weights(depth)
        what = {
            "OUTPUT_DIR": folder,
            "DATASETS.TRAIN": (train,),
            "DATASETS.TEST": (test,) if test else (),
        }
        if weights and weights != recipes.RANDOM:
            what["MODEL.WEIGHTS"] = weights
        words = recipes.as_options(what)
        words += [*options, "MODEL.DEVICE", self.experiment.device]
        identity = recipes.describe_config(config, options) + recipes.weights_identity(weights)
        return self._add(
            Step(
                name,
                command + words,
                after=after,
                inputs=inputs,
                outputs=[folder / "model_final.pth", *outputs],
                folder=folder,
                iterations=self._iterations(config, options),
                identity=identity,
                resume_command=[*command, "--resume", *words],
            )
        )

    def _iterations(self, config: Path, options: list[str]) -> int:
        return recipes.leaves(config, options)["SOLVER.MAX_ITER"]

    def _tool(self, name: str, *words: object) -> list[str]:
        return [sys.executable, str(self.experiment.root / "tools" / name), *map(str, words)]

    def _add(self, step: Step) -> str:
        known = self._steps.setdefault(step.name, step)
        if known.identity != step.identity:
            raise ValueError(f"two different steps are called {step.name}")
        return step.name


def plan_rows(
    plan: Plan, rows: Sequence[Row], seeds: int, *, box_ap: bool = False
) -> list[RowResult]:
    """All rows with the seeds 0 to `seeds` - 1, seed by seed, so that whole tables come early."""
    runs: dict[str, list[RunResult]] = {row.key: [] for row in rows}
    missing = dict.fromkeys(runs, "")
    for seed in range(seeds):
        for row in rows:
            try:
                runs[row.key].append(plan.add(row, seed, box_ap=box_ap))
            except InputError as error:
                missing[row.key] = str(error)
    return [
        RowResult(
            key=row.key,
            label=row.label,
            paper=row.paper,
            overrides=row.overrides,
            runs=runs[row.key],
            missing=missing[row.key],
        )
        for row in rows
    ]


def slug(stem: str, *parts: str | None, **keys: object) -> str:
    """A file name for something that differs from the standard in `keys`.

    >>> slug("cprnet", "p3", **{"MODEL.CPRNET.ALPHA_NEG": 0.0})
    'cprnet_p3_alpha_neg=0.0'
    """
    words = [stem, *filter(None, parts)]
    words += [f"{key.rsplit('.', 1)[-1].lower()}={value}" for key, value in keys.items()]
    return re.sub(r"[^\w.=-]", "_", "_".join(words))


def check_same(path: Path, now: Mapping, what: Path) -> None:
    """InputError if the folder `what` was made with other choices than `now`, kept in `path`."""
    if not path.exists():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(
            f"{key}: {before.get(key)} there, {now.get(key)} now" for key in changed
        )
        raise InputError(
            f"{what}: holds an experiment with other choices ({differences}). Give the same ones to"
            " go on, or another --output."
        )
