"""Point bags (Eq. 1), class-wise negatives (Eq. 2) and bilinear sampling of dense maps.

Shape shorthand: B images, M objects of all images together, U points per bag, K classes,
H x W cells of the feature map, s its stride. Points are x, y in px of the network input, continuous
with the origin at the top-left corner of the image. Cell (i, j) has its centre at
((i + 0.5) s, (j + 0.5) s).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def circle_offsets(radius: int, u0: int) -> torch.Tensor:
    """Offsets of a bag's points from its centre (Eq. 1), in cells.

    Circle r = 1..R holds u0 * r points at the angles 2 pi i / (u0 r), from +x towards +y. The
    annotated point itself is the last element (official code; the paper's Eq. 1 leaves it out).

    Returns:
        (U, 2) float32, U = u0 R (R + 1) / 2 + 1.
    """
    offsets = [
        (r * math.cos(2 * math.pi * i / (u0 * r)), r * math.sin(2 * math.pi * i / (u0 * r)))
        for r in range(1, radius + 1)
        for i in range(u0 * r)
    ]
    return torch.tensor([*offsets, (0.0, 0.0)], dtype=torch.float32)


def rectangle_sides(radius: int, aspect: float) -> tuple[float, float]:
    """Width and height, in cells, of the rectangle that replaces a circle in Table 5a.

    The paper does not define it; ours has the area of the circle, pi R^2, and w : h = `aspect`.
    """
    height = math.sqrt(math.pi * radius**2 / aspect)
    return aspect * height, height


def rectangle_offsets(radius: int, aspect: float) -> torch.Tensor:
    """Offsets of a bag's points for the regions "rect" of Table 5a, in cells.

    All whole cells off the click inside the rectangle of `rectangle_sides` around it, row by row;
    the annotated point itself is the last element, as in `circle_offsets`.

    Returns:
        (U, 2) float32, U = (2 floor(w / 2) + 1) (2 floor(h / 2) + 1).
    """
    x, y = (math.floor(side / 2) for side in rectangle_sides(radius, aspect))
    offsets = [(i, j) for j in range(-y, y + 1) for i in range(-x, x + 1) if (i, j) != (0, 0)]
    return torch.tensor([*offsets, (0, 0)], dtype=torch.float32)


def point_bags(points: torch.Tensor, offsets: torch.Tensor, stride: int) -> torch.Tensor:
    """Bags around annotated points: (M, 2) px and (U, 2) cells -> (M, U, 2) px."""
    return points[:, None] + offsets * stride


def inside(points: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Which points lie in the rectangle from the origin: 0 <= x < width, 0 <= y < height.

    Args:
        points: (..., 2) x, y px.
        sizes: broadcastable to `points`, (height, width) px.
    """
    return ((points >= 0) & (points < sizes.flip(-1))).all(dim=-1)


def sample_maps(
    maps: torch.Tensor,
    points: torch.Tensor,
    batch_index: torch.Tensor,
    counts: list[int],
    stride: int,
    sample_offset: float,
) -> torch.Tensor:
    """Bilinear values of dense maps at the points of each bag, clamped at the border.

    The feature index of position p is p / s - sample_offset: 0.5 is the geometry above, 0 the
    official code's. A linear layer commutes with this sampling, fc(bilinear(F, p)) =
    bilinear(conv1x1(F), p), so the networks sample K logits instead of 256 features.

    Args:
        maps: (B, C, H, W).
        points: (M, U, 2) px, ordered by image.
        batch_index: (M,) image of each bag.
        counts: bags per image, on the host.

    Returns:
        (M, U, C) in the dtype of `maps`.
    """
    batch, channels, height, width = maps.shape
    num_objects, num_points, _ = points.shape
    if num_objects == 0:
        # Keeps the graph connected, so that a batch without objects has gradients (zeros).
        return maps.sum() * maps.new_zeros(0, num_points, channels)
    # One grid_sample for all images: the bags of each image fill rows of a padded array.
    longest = max(counts)
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0).to(points.device, non_blocking=True)
    within = torch.arange(num_objects, device=points.device) - starts[batch_index]
    slots = batch_index * longest + within
    rows = points.new_zeros(batch * longest, num_points, 2).index_copy(0, slots, points)

    # align_corners=False maps the index i of n cells to (2 i + 1) / n - 1.
    x, y = (2 * (rows / stride - sample_offset) + 1).unbind(dim=-1)
    grid = torch.stack((x / width - 1, y / height - 1), dim=-1)
    sampled = F.grid_sample(
        maps,
        grid.reshape(batch, longest, num_points, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled.permute(0, 2, 3, 1).reshape(-1, num_points, channels).index_select(0, slots)


def cell_centres(
    height: int, width: int, stride: int, device: torch.device | None = None
) -> torch.Tensor:
    """Centres of the cells of a map, row-major: (H * W, 2) x, y px."""
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) * stride,
        (torch.arange(width, device=device) + 0.5) * stride,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).reshape(-1, 2)


def negative_mask(
    points: torch.Tensor,
    labels: torch.Tensor,
    batch_index: torch.Tensor,
    sizes: torch.Tensor,
    *,
    num_classes: int,
    radius: int,
    stride: int,
    map_size: tuple[int, int],
    aspect: float | None = None,
) -> torch.Tensor:
    """Class-wise negatives (Eq. 2): cells at least R s away from every point of the class.

    A cell is a candidate if its centre lies inside its own image's size. Points of other classes do
    not exclude it. The official code excludes distances < R s, the paper <= R s. With rectangular
    bags (Table 5a) the same holds for the rectangle: the cells outside the region that bags are
    sampled from, or on its border, are the negatives. The paper does not say.

    Args:
        points: (M, 2) annotated points.
        labels, batch_index: (M,) int64.
        sizes: (B, 2) height, width of the valid area of each image (its own padded size).
        map_size: (H, W).
        aspect: None for circles, w : h for the rectangles of `rectangle_sides`.

    Returns:
        (B, K, H, W) bool.
    """
    height, width = map_size
    batch = len(sizes)
    centres = cell_centres(height, width, stride, points.device)
    valid = inside(centres, sizes[:, None]).reshape(batch, 1, height, width)
    mask = valid.expand(batch, num_classes, height, width).flatten()
    # Regions are stamped into the mask: only the cells near each point are looked at, (2 R + 3)^2
    # for a circle.
    sides = (2 * radius, 2 * radius) if aspect is None else rectangle_sides(radius, aspect)
    reach_x, reach_y = (
        torch.arange(-cells, cells + 1, device=points.device)
        for cells in (math.ceil(side / 2) + 1 for side in sides)
    )
    dy, dx = torch.meshgrid(reach_y, reach_x, indexing="ij")
    base = torch.floor(points / stride).long()
    x = base[:, :1] + dx.flatten()
    y = base[:, 1:] + dy.flatten()
    off_x = (x + 0.5) * stride - points[:, :1]
    off_y = (y + 0.5) * stride - points[:, 1:]
    if aspect is None:
        near = off_x**2 + off_y**2 < (radius * stride) ** 2
    else:
        half_w, half_h = (side / 2 * stride for side in sides)
        near = (off_x.abs() < half_w) & (off_y.abs() < half_h)
    on_map = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    plane = (batch_index * num_classes + labels)[:, None]
    # Cells that are not near or not on the map go to a dummy entry behind the mask.
    index = torch.where(near & on_map, (plane * height + y) * width + x, len(mask))
    mask = torch.cat((mask, mask.new_zeros(1))).index_fill(0, index.flatten(), False)
    return mask[:-1].reshape(batch, num_classes, height, width)
