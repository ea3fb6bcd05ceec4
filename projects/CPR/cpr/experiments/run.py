"""An experiment from beginning to end: its folder, its steps, its reports."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import (
    InputError,
    check_output_folder,
    file_sha256,
    read_json,
    write_json,
)

from ..data.point_json import load_points, save_points
from ..launch import choose_device
from ..refiners import get_refiner
from ..scheduler import Scheduler, command_environment, step_record
from . import recipes
from .data import (
    CURVE_IMAGES,
    ExperimentData,
    check_parts,
    choose_classes,
    has_masks,
    load_boxes,
    select,
)
from .plan import Experiment, Plan, check_same, plan_rows
from .report import write_report
from .results import RowResult, TableResult
from .settings import WORKING_SIZE, Settings, suggest_settings
from .tables import TABLES, Row

CHOICES = "experiment.json"
# GiB that a training on the CPU may take; the sets of RESULTS.md need 1 to 2.
STEP_MEMORY = 4


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line; see `tools/run_experiments.py --help`."""

    output: Path | None = None
    recipe: str = "SmallSets"
    weights: Sequence[str] = ()
    classes: Sequence[str] = ()
    top_classes: int | None = None
    train_images: int | None = None
    object_size: float | None = None
    boxes: int = 20
    working_size: float = WORKING_SIZE
    schedule: float = 1.0
    device: str = "auto"
    options: Sequence[str] = ()
    # Processes per training, as of train_net.py.
    num_gpus: int = 1
    # Refiners of the user's as NAME or NAME=CONFIG, and the modules that register them.
    refiners: Sequence[str] = ()
    plugins: Sequence[str] = ()

    def extra_rows(self) -> list[Row]:
        """A row for each refiner of the user's, beside those of the table."""
        rows = []
        for word in self.refiners:
            name, _, config = word.partition("=")
            get_refiner(name)  # says which there are
            if config and not Path(config).is_file():
                raise InputError(f"--refiner {word}: {config} is no file.")
            path = Path(config).resolve() if config else None
            rows.append(Row(name, f"{name} + P2PNet", name, refiner_config=path))
        return rows

    def check_unchanged(self, recipe: recipes.Recipe) -> None:
        """InputError if something is asked for that a benchmark's recipe fixes."""
        standard = Request()
        for name in ("object_size", "working_size", "schedule"):
            if getattr(self, name) != getattr(standard, name):
                raise InputError(
                    f"--{name.replace('_', '-')}: recipe {recipe.name} fixes sizes and schedule."
                    " Leave the option out, or give keys (SOLVER.MAX_ITER ...) at the end."
                )

    def classes_of(self, dataset: dict) -> list[str]:
        return choose_classes(dataset, self.classes, self.top_classes)

    def settings_for(self, dataset: dict) -> Settings:
        settings = suggest_settings(
            dataset,
            object_size=self.object_size,
            boxes=self.boxes,
            working_size=self.working_size,
        )
        return settings.with_schedule(self.schedule)


def suggest(request: Request, data: ExperimentData) -> Settings:
    """Settings for the training part of `data`, whose objects may have points only."""
    dataset = load_points(data.train, require="any", drop_flat=True)
    classes = request.classes_of(dataset)
    return request.settings_for(select(dataset, classes=classes, images=request.train_images))


def prepare(
    request: Request,
    data: ExperimentData,
    root: Path,
    *,
    write: bool = True,
    must_exist: bool = False,
) -> Experiment:
    """Makes the experiment's folder with its data files, or checks that it is the one asked for.

    Args:
        request: what to run.
        data: the whole data set.
        root: the repository.
        write: False: the folder is only checked, and with `must_exist` it has to be there.

    Raises:
        InputError: bad data or weights; a folder that was made with other choices.
    """
    # Commands run in the repository, results may lie anywhere.
    output = (request.output or Path("output/experiments") / data.name).resolve()
    check_output_folder(output)
    check_own_folder(output)
    device = choose_device(request.device)
    recipe = recipes.find_recipe(request.recipe, root / "configs")
    if not recipe.adapts:
        request.check_unchanged(recipe)
    weights = parse_weights(request.weights, recipe)
    train, val = load_boxes(data.train), load_boxes(data.val)
    classes = request.classes_of(train)
    train = select(train, classes=classes, images=request.train_images)
    val = select(val, classes=classes)
    check_parts(data, train, val)
    settings = request.settings_for(train)
    choices = {
        "dataset": data.name,
        "train": file_sha256(data.train),
        "val": file_sha256(data.val),
        "classes": classes,
        "train_images": len(train["images"]),
        "recipe": recipe.name,
        "settings": dataclasses.asdict(settings),
        "weights": recipes.weights_identity(weights[0]),
        "options": list(request.options),
    }
    check_same(output / CHOICES, choices, output)
    if not write and must_exist and not (output / CHOICES).exists():
        raise InputError(f"{output}: holds no experiment yet; run it without --report-only first.")
    folder = output / "data"
    if write:
        # First: from here on the folder is an experiment's, whatever comes between.
        write_json(output / CHOICES, choices, indent=1)
        parts = {"train": train, "val": val, "curve": select(train, images=CURVE_IMAGES)}
        for name, part in parts.items():
            if not (folder / f"{name}.json").exists():
                save_points(folder / f"{name}.json", part)
    return Experiment(
        root=root,
        output=output,
        data=dataclasses.replace(
            data,
            train=folder / "train.json",
            val=folder / "val.json",
            train_images=data.train_images.resolve(),
            val_images=data.val_images.resolve(),
        ),
        settings=settings,
        recipe=recipe,
        masks=has_masks(train),
        weights=weights,
        device=device,
        options=request.options,
        plugins=request.plugins,
        num_gpus=request.num_gpus,
    )


def check_own_folder(output: Path) -> None:
    """InputError if the folder holds something else than an experiment."""
    if output.is_dir() and any(output.iterdir()) and not (output / CHOICES).exists():
        raise InputError(
            f"{output}: holds other files and no {CHOICES}, so it is no experiment's folder. Give"
            " another --output."
        )


def plan_tables(
    experiment: Experiment, tables: Sequence[str], seeds: int, extra: Sequence[Row] = ()
) -> tuple[Plan, dict[str, list[RowResult]]]:
    """The steps of all rows of `tables`, and where the results of the rows will lie.

    `extra` rows are added to each table that does not have them.
    """
    plan = Plan(experiment)
    rows = {}
    for name in tables:
        table = TABLES[name]
        own = table.rows(experiment.standard)
        own += [row for row in extra if row.key not in {other.key for other in own}]
        rows[name] = plan_rows(plan, own, seeds, box_ap=table.box_ap)
    return plan, rows


def run_steps(experiment: Experiment, plan: Plan, parallel: int | None) -> None:
    """Runs the steps that are not done yet."""
    cpus = available_cpus()
    on_gpu = experiment.device != "cpu"
    parallel = parallel or (1 if on_gpu else min(cpus, max(1, free_memory() // STEP_MEMORY)))
    threads = max(1, cpus // (parallel * experiment.num_gpus))
    # Plugins may lie in the user's folder; the commands run in the repository.
    folders = [os.getcwd()] if experiment.plugins else []
    scheduler = Scheduler(
        plan.steps,
        experiment.output,
        max_parallel=parallel,
        environment=command_environment(threads, folders),
        working_folder=experiment.root,
        refuse_changes=True,
        keep_going=True,
        stamp={"machine": machine(), "date": datetime.date.today().isoformat()},
    )
    scheduler.run()


def write_reports(
    experiment: Experiment, tables: Mapping[str, list[RowResult]], seeds: int, command: str
) -> list[Path]:
    """A report per table of the steps that are done, in the folders that are returned."""
    folders = []
    for name, rows in tables.items():
        stamps = stamps_of(rows, experiment.output)
        result = TableResult(
            table=name,
            title=TABLES[name].title,
            dataset=experiment.data.name,
            seeds=seeds,
            rows=[with_details(row, experiment.output) for row in rows],
            held_out=experiment.data.val,
            clicks={seed: experiment.file("points", seed, "coarse.json") for seed in range(seeds)},
            image_root=experiment.data.train_images,
            settings=report_settings(experiment),
            command=command,
            machine=" and ".join(dict.fromkeys(stamp["machine"] for stamp in stamps)),
            date=" to ".join(dict.fromkeys(stamps[i]["date"] for i in (0, -1) if stamps)),
        )
        folders.append(experiment.output / f"table_{name}")
        write_report(result, folders[-1])
    return folders


def stamps_of(rows: Sequence[RowResult], output: Path) -> list[dict]:
    """{"machine", "date"} of each step of the rows that is done."""
    steps = {step for row in rows for run in row.runs for step in run.seconds}
    records = [step_record(output, step) for step in steps]
    return sorted((r for r in records if "machine" in r), key=lambda record: record["date"])


def with_details(row: RowResult, output: Path) -> RowResult:
    """The row with the seconds of its steps and the points refined while CPRNet was trained."""
    runs = []
    for run in row.runs:
        # Without the seed, so that the runs of a row have the same steps.
        seconds = {
            step.removeprefix(f"seed{run.seed}-"): float(record.get("seconds", 0.0))
            for step in run.seconds
            if (record := step_record(output, step))
        }
        refined_at = {}
        if run.rsv_curve is not None and run.rsv_curve.exists():
            for entry in read_json(run.rsv_curve):
                if "points" in entry:
                    refined_at[entry["epoch"]] = run.rsv_curve.parent / entry["points"]
        runs.append(dataclasses.replace(run, seconds=seconds, refined_at=refined_at))
    return dataclasses.replace(row, runs=runs)


def report_settings(experiment: Experiment) -> dict[str, object]:
    """What people need to know of the settings."""
    settings: dict[str, object] = {"recipe": experiment.recipe.name}
    if experiment.recipe.adapts:
        settings.update(dataclasses.asdict(experiment.settings))
    settings["clicks"] = "masks" if experiment.masks else "boxes"
    settings["training images"] = len(read_json(experiment.data.train)["images"])
    files = dict.fromkeys(Path(weights).name for weights in experiment.weights.values())
    settings["weights"] = ", ".join(files)
    if experiment.options:
        settings["options"] = " ".join(experiment.options)
    return settings


def parse_weights(words: Sequence[str], recipe: recipes.Recipe) -> dict[int, str]:
    """["50=r50.pkl", "r18.pth"] -> {50: "r50.pkl", 0: "r18.pth", 18: "r18.pth"}.

    0 is the recipe's own depth. Without any, an adapting recipe asks for weights; the others name
    theirs in the config file.
    """
    own = recipes.leaves(recipe.config("CPRNet"), ())
    own_depth = own["MODEL.RESNETS.DEPTH"]
    weights: dict[int, str] = {}
    for word in words:
        # Only digits before the "=": a path may have one too.
        match = re.fullmatch(r"(\d+)=(.+)", word)
        depth, file = match.groups() if match else ("0", word)
        if file != recipes.RANDOM and "://" not in file:
            if not Path(file).is_file():
                raise InputError(f"--weights {word}: {file} is no file. Give FILE or DEPTH=FILE.")
            file = str(Path(file).resolve())
        weights[int(depth)] = file
    if 0 not in weights:
        weights[0] = weights.get(own_depth) or own["MODEL.WEIGHTS"] or ""
    if not weights[0]:
        raise InputError(
            "--weights is missing: give the file of ImageNet weights of"
            f" R-{own_depth} (a path or detectron2://...), or random."
        )
    weights.setdefault(own_depth, weights[0])
    return weights


def free_memory() -> int:
    """Memory that may be used, GiB."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30


def machine() -> str:
    """The hardware, in words."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        cpu = names[0] if names else cpu
    except OSError:
        pass
    text = f"{available_cpus()} cores of {cpu}"
    if torch.cuda.is_available():
        text = f"{torch.cuda.get_device_name()}; {text}"
    return f"{text}; torch {torch.__version__}"


def format_settings(settings: Settings, recipe: recipes.Recipe) -> str:
    """Settings for people, and as KEY VALUE pairs for train_net.py with the recipe's files."""
    lines = [
        f"object size {settings.object_size:g} px ({settings.object_size_from})",
        f"scale {settings.scale:g}: {settings.object_size * settings.scale:.0f} px in the network",
        f"level {settings.level}, R = {settings.radius} cells",
    ]
    for name in ("CPRNet", "P2PNet"):
        config = recipe.config(name)
        keys = recipes.settings_keys(settings, name)
        keys.update(recipes.level_keys(config, settings.level, name))
        lines += ["", f"{name} (on configs/{recipe.name}/{config.name}):"]
        for key, value in keys.items():
            text = str(value).replace(" ", "")
            lines.append(f'  {key} "{text}"' if isinstance(value, list) else f"  {key} {text}")
    return "\n".join(lines)
