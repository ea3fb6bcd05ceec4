"""What an exported point localizer says about itself, in the metadata of its ONNX file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from cpr_deploy.files import InputError

FORMAT = "cpr-point-localizer"
# 2: `resize_factor` counts, which a reader of version 1 would pass over.
FORMAT_VERSIONS = (1, 2)
COORDINATES = (
    "points in pixels of the original image; x right, y down, origin at the top-left corner, "
    "centre of the first pixel at (0.5, 0.5)"
)

# Bits of the output `flags`.
FLAG_NMS_NOT_CONVERGED = 1
FLAG_CANDIDATES_OVERFLOWED = 2
FLAG_NOT_FINITE = 4


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """All that a runtime must know. Frames: "network px" = pixels of the graph's input."""

    class_names: tuple[str, ...]
    # Network input: sides are multiples of `size_multiple`; fixed where a number is given.
    batch: int | None
    height: int | None
    width: int | None
    size_multiple: int
    stride: int
    # Colour of the padding right and below the image: the pixel mean, 0-255, in BGR order.
    pad_bgr: tuple[int, int, int]
    # Recommended resize: shorter side to `min_size` px, then longer side at most `max_size` px.
    # min_size 0: no resize.
    min_size: int
    max_size: int
    score_thresh: float
    pre_nms_topk: int
    max_candidates: int
    max_dets: int
    # As in `point_nms`; "none": the points of the graph passed no NMS.
    nms_rule: str
    nms_size: float
    nms_iou: float
    nms_radius: float
    nms_iterations: int
    # Ids of the classes in the annotation files, or empty.
    category_ids: tuple[int, ...] = ()
    # Where the graph comes from.
    exporter: str = ""
    opset: int = 0
    config_sha256: str = ""
    weights_sha256: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    coordinates: str = COORDINATES
    # Of backbone and head: "fp32", "fp16" or "int8"; decoding and coordinates are always float32.
    precision: str = "fp32"
    # Above 0 it is the recommended resize: network px per original px; `min_size` does not count.
    resize_factor: float = 0.0

    @property
    def dynamic_size(self) -> bool:
        return self.height is None

    def to_metadata(self) -> dict[str, str]:
        """Key -> value strings for the ONNX file's metadata."""
        spec = dataclasses.asdict(self)
        return {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSIONS[self.resize_factor > 0]),
            "spec": json.dumps(spec, allow_nan=False, sort_keys=True),
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], name: str) -> ModelSpec:
        """Inverse of `to_metadata`; InputError naming the file `name` if it is not ours."""
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{name}: is not a point localizer of this project (its metadata lacks format"
                f" {FORMAT!r}). Make one with deploy/export_onnx.py."
            )
        version = metadata.get("format_version")
        if version not in map(str, FORMAT_VERSIONS):
            raise InputError(
                f"{name}: has format version {version}, this program reads 1 and 2."
                " Export the model again, or update the program."
            )
        try:
            values = json.loads(metadata["spec"])
            fields = {field.name for field in dataclasses.fields(ModelSpec)}
            known = {key: value for key, value in values.items() if key in fields}
            known["class_names"] = tuple(str(item) for item in known["class_names"])
            known["category_ids"] = tuple(int(item) for item in known.get("category_ids", ()))
            known["pad_bgr"] = tuple(int(item) for item in known["pad_bgr"])
            spec = ModelSpec(**known)
            spec._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{name}: its metadata is damaged ({error!r}). Export the model again."
            ) from None
        return spec

    def _check(self) -> None:
        def positive(*values: Any) -> bool:
            return all(
                isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24
                for value in values
            )

        fixed = [value for value in (self.batch, self.height, self.width) if value is not None]
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width must both be fixed or both be free")
        if not self.class_names or not positive(
            self.size_multiple, self.stride, self.max_dets, *fixed
        ):
            raise ValueError("a size is not a positive integer")
        if self.category_ids and len(self.category_ids) != len(self.class_names):
            raise ValueError("category_ids")
        if len(self.pad_bgr) != 3 or not all(0 <= value <= 255 for value in self.pad_bgr):
            raise ValueError("pad_bgr")
        if not 0 <= self.score_thresh <= 1 or self.min_size < 0 or self.max_size < 0:
            raise ValueError("score_thresh, min_size or max_size")
        if not 0 <= self.resize_factor < 1 << 10:
            raise ValueError("resize_factor")
