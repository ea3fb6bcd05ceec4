"""Hooks of the trainer: diagnostics of the networks, and the RSV curve."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from detectron2.engine import HookBase
from torch.nn.parallel import DistributedDataParallel

from cpr_deploy.files import atomic_path, read_json, write_json

# Iterations between two writes of the networks' diagnostics, each of which waits for the device.
DIAGNOSTICS_PERIOD = 20
RSV_CURVE = "rsv_curve.json"
REFINED_DURING_TRAINING = "refined_during_training"


class Diagnostics(HookBase):
    """Writes `model.diagnostics` (name -> scalar tensor) to the event storage now and then."""

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % DIAGNOSTICS_PERIOD and self.trainer.iter:
            return
        model = self.trainer.model
        model = model.module if isinstance(model, DistributedDataParallel) else model
        values = {key: float(value) for key, value in getattr(model, "diagnostics", {}).items()}
        if values:
            self.trainer.storage.put_scalars(**values)


class RSVCurve(HookBase):
    """Keeps the curve of Fig. 6, RSV over training, in `output_dir`/rsv_curve.json.

    The file holds a list with a dict per evaluation: iteration, epoch, dataset, and the values of
    `RefinementEvaluator` (rsv_coarse, rsv_refined, inside_coarse, inside_refined, ...). For the
    first data set it also names `points`, a copy of the refined points of that time beside it.

    Args:
        output_dir: OUTPUT_DIR.
        refined: point JSON that the evaluation of the first data set leaves.
    """

    def __init__(self, output_dir: str | os.PathLike, refined: Path) -> None:
        self.path = Path(output_dir) / RSV_CURVE
        self.refined = refined
        self._seen: object = None

    def before_train(self) -> None:
        # A new run starts a new curve, a resumed one goes on with what was written before.
        curve = read_json(self.path) if self.trainer.start_iter and self.path.exists() else []
        self.curve = [entry for entry in curve if entry["iteration"] <= self.trainer.start_iter]

    def after_step(self) -> None:
        self._record(self.trainer.iter + 1)

    def after_train(self) -> None:
        self._record(self.trainer.max_iter)

    def _record(self, iteration: int) -> None:
        results = getattr(self.trainer, "_last_eval_results", None)
        if not results or results is self._seen:
            return
        self._seen = results
        cfg = self.trainer.cfg
        names = cfg.DATASETS.TEST
        for name, result in {names[0]: results}.items() if len(names) == 1 else results.items():
            entry = {
                "iteration": iteration,
                "epoch": iteration * cfg.SOLVER.IMS_PER_BATCH / self.trainer.num_images,
                "dataset": name,
                # NaN (no boxes to compare with) is not JSON.
                **{key: value for key, value in result["refinement"].items() if value == value},
            }
            if name == names[0] and self.refined.exists():
                entry["points"] = f"{REFINED_DURING_TRAINING}/{iteration}.json"
                copy = self.path.parent / entry["points"]
                copy.parent.mkdir(exist_ok=True)
                with atomic_path(copy) as temporary:
                    shutil.copyfile(self.refined, temporary)
            self.curve.append(entry)
        write_json(self.path, self.curve, indent=1)
