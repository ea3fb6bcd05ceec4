"""`statistics`: how many objects, how large, where; with plots and a data card."""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, atomic_path, check_outputs, write_json, write_text


def add_statistics_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "statistics",
        help="numbers and sizes of objects, with plots and a data card",
        description="Writes statistics.json, statistics.md, sizes.png, positions.png and"
        " DATA_CARD.md, whose fields for the owner keep their text when it is written again.",
    )
    parser.add_argument(
        "--annotations",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="point JSON or COCO JSON of each part; its name is that of the file",
    )
    parser.add_argument("--output-dir", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--title",
        help="name of the data set (default: the folder of the first file, or of `annotations`)",
    )
    parser.set_defaults(run=run_statistics)


def run_statistics(args: argparse.Namespace) -> int:
    from cpr.visualization.statistics_plots import position_plots, size_plots

    from ..point_json import load_points
    from ..statistics.data_card import data_card, owners_text
    from ..statistics.measure import markdown_tables, measure, statistics

    names = [path.stem for path in args.annotations]
    if len(set(names)) < len(names):
        raise InputError("--annotations: two files have one name. Name them after their parts.")
    pictures = [("sizes.png", "Sizes and numbers of objects"), ("positions.png", "Where they are")]
    files = ["statistics.json", "statistics.md", "DATA_CARD.md", *(name for name, _ in pictures)]
    check_outputs([args.output_dir / file for file in files], args.annotations)
    card = args.output_dir / "DATA_CARD.md"
    owner = _owners_text(card, owners_text)
    # COCO's train2017 has two boxes without a width.
    parts = {
        path.stem: load_points(path, may_be_empty=True, drop_flat=True) for path in args.annotations
    }
    categories = _common_categories(args.annotations, list(parts.values()))
    measures = {name: measure(part) for name, part in parts.items()}
    result = statistics(measures, categories)
    tables = markdown_tables(result)
    folder = args.annotations[0].absolute().parent
    if folder.name == "annotations":
        folder = folder.parent
    title = args.title or folder.name
    for file, content in (
        ("sizes.png", size_plots(measures)),
        ("positions.png", position_plots(measures)),
    ):
        with atomic_path(args.output_dir / file) as temporary:
            temporary.write_bytes(content)
    write_json(args.output_dir / "statistics.json", result, indent=1)
    write_text(args.output_dir / "statistics.md", tables)
    write_text(card, data_card(title, parts, result, pictures, owner=owner))
    print(tables, end="")
    print(f"wrote {', '.join(files)} to {args.output_dir}")
    return 0


def _owners_text(card: Path, owners_text) -> dict[str, str]:
    if not card.exists():
        return {}
    try:
        owner = owners_text(card.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        owner = {}
    if not owner:
        raise InputError(
            f"{card}: was not written by this command, or its marks are gone. Rename it, or give"
            " another output folder."
        )
    return owner


def _common_categories(paths: list[Path], parts: list[dict]) -> list[dict]:
    """The classes of all parts; InputError if an id or a name means different classes."""
    by_id: dict[int, dict] = {}
    for path, part in zip(paths, parts, strict=True):
        for category in part["categories"]:
            known = by_id.setdefault(category["id"], category)
            if known["name"] != category["name"]:
                raise InputError(
                    f"{path}: category {category['id']} is {category['name']!r}, in another part"
                    f" {known['name']!r}. Give the parts of one data set."
                )
    categories = [by_id[key] for key in sorted(by_id)]
    names = [category["name"] for category in categories]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"{paths[0]}: the class {twice!r} has different ids in the parts. Give the parts of one"
            " data set."
        )
    return categories
