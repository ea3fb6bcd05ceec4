"""From Detectron2's list of input dicts to batched tensors, without waiting for the device.

Shape shorthand: B images, M annotated objects of all images together, G ignored regions of all
images together. Points are in px of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import nn


@dataclass(frozen=True)
class PointTargets:
    """The annotated points of a batch, one after another.

    Attributes:
        points: (M, 2) x, y.
        labels: (M,) int64 contiguous classes.
        batch_index: (M,) int64, image of each point.
        counts: points per image, on the host, so that nobody has to ask the device.
        regions: (G, 4) x1, y1, x2, y2 of ignored and crowd regions.
        region_index: (G,) int64, image of each region.
    """

    points: torch.Tensor
    labels: torch.Tensor
    batch_index: torch.Tensor
    counts: list[int]
    regions: torch.Tensor
    region_index: torch.Tensor


class ImageNetwork(nn.Module):
    """What every network here begins with: a backbone and the normalisation of its images.

    Args:
        backbone: gives feature maps by name.
        pixel_mean, pixel_std: of each channel, 0 to 255.
    """

    def __init__(self, backbone: Backbone, pixel_mean: list[float], pixel_std: list[float]):
        super().__init__()
        self.backbone = backbone
        # Settings, not weights: they stay out of the checkpoints.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def batch_images(self, batched_inputs: list[dict]) -> ImageList:
        """Normalises the images and pads them right and bottom, after normalisation: pad = mean."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
        )


def padded_sizes(image_sizes: list[tuple[int, int]], divisibility: int) -> list[tuple[int, int]]:
    """(height, width) of each image padded by itself; the batch's canvas may be larger."""
    return [tuple(-(-side // divisibility) * divisibility for side in size) for size in image_sizes]


def to_device(values: list, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small host list as a tensor on `device`, without waiting for the copy."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def image_index(lengths: list[int], device: torch.device) -> torch.Tensor:
    """(sum of lengths,) int64: image of each element of concatenated lists."""
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return index.to(device, non_blocking=True)


def batch_regions(
    batched_inputs: list[dict], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ignored regions of all images, (G, 4) x1, y1, x2, y2 px, and the image of each, (G,)."""
    regions = [x.get("ignore_regions", torch.zeros(0, 4)).reshape(-1, 4) for x in batched_inputs]
    boxes = torch.cat(regions).float().to(device, non_blocking=True)
    return boxes, image_index([len(r) for r in regions], device)


def batch_targets(batched_inputs: list[dict], device: torch.device) -> PointTargets:
    """Concatenates the annotated points and ignored regions of all images."""
    instances = [x["instances"] for x in batched_inputs]
    counts = [len(x) for x in instances]
    regions, region_index = batch_regions(batched_inputs, device)
    return PointTargets(
        points=torch.cat([x.gt_points.reshape(-1, 2) for x in instances])
        .float()
        .to(device, non_blocking=True),
        labels=torch.cat([x.gt_classes for x in instances]).to(device, non_blocking=True),
        batch_index=image_index(counts, device),
        counts=counts,
        regions=regions,
        region_index=region_index,
    )


def region_mask(
    regions: torch.Tensor,
    region_index: torch.Tensor,
    positions: torch.Tensor,
    num_images: int,
) -> torch.Tensor:
    """Which positions lie inside an ignored region of an image.

    Args:
        regions: (G, 4) x1, y1, x2, y2 px.
        region_index: (G,) image of each region.
        positions: (L, 2) x, y px, the same for all images.

    Returns:
        (num_images, L) bool.
    """
    low, high = regions[:, None, :2], regions[:, None, 2:]
    inside = ((positions >= low) & (positions < high)).all(dim=-1)
    hits = positions.new_zeros(num_images, len(positions))
    return hits.index_add(0, region_index, inside.to(hits.dtype)) > 0
