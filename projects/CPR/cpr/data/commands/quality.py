"""`check`: what is wrong with a data set, and what of it can be mended."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from cpr_deploy.files import InputError, check_outputs, write_json

from .output import counts, show_progress

if TYPE_CHECKING:
    from ..point_json import Problem
    from ..quality.fixes import Fixed
    from ..quality.image_facts import ImageFacts


def add_check_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check",
        help="report what is wrong with a data set, record by record, and mend it",
        description="Reports every problem of a point JSON and its images, and how many there are"
        " of each kind; exits with 1 if any is an error. With --fix, what has one answer is mended"
        " in a copy, which is checked again; what is left in it counts for the exit code.",
    )
    parser.add_argument("--annotations", required=True, help="point JSON or COCO JSON")
    parser.add_argument("--image-root", help="image folder; without it images are not opened")
    parser.add_argument(
        "--require",
        choices=("point", "box", "any"),
        default="any",
        help="what every object must have (default: any of the two)",
    )
    parser.add_argument(
        "--same-place",
        type=float,
        default=0.5,
        metavar="PX",
        help="report objects of an image that are this close to each other (default 0.5)",
    )
    parser.add_argument(
        "--double-click",
        type=float,
        metavar="PX",
        help="warn of two clicks of a class that are nearer than this (default: much nearer than is"
        " usual for the class and the place, so that crowds are none)",
    )
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="the other part of the data set, to train or to test on: report images that are in"
        " both. With --image-root files and looks are compared too, else names and `sequence`",
    )
    parser.add_argument(
        "--against-root", metavar="DIR", help="its image folder (default: --image-root)"
    )
    parser.add_argument(
        "--near-duplicate",
        type=int,
        metavar="BITS",
        help="images look alike if their hashes of 64 bits differ in at most so many (default 4)",
    )
    parser.add_argument(
        "--fix",
        metavar="OUTPUT",
        help="write a mended copy, and OUTPUT.log.json with every record that was changed or"
        " removed, why, and as it was",
    )
    parser.add_argument("--report", metavar="FILE", help="JSON to write: all that is printed")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    from ..point_json import read_unchecked, save_points
    from ..quality.check_report import check_report, fix_log

    if args.against is None and (args.against_root or args.near_duplicate is not None):
        raise InputError("--against-root and --near-duplicate belong to --against. Give that too.")
    log = None if args.fix is None else f"{args.fix}.log.json"
    check_outputs([args.fix, log, args.report], [args.annotations, args.against])
    dataset, _ = read_unchecked(args.annotations)
    problems, facts = _find(dataset, args)
    for problem in problems:
        print(f"{'error' if problem.is_error else 'warning'}: {problem.record}: {problem.text}")
    fixed, left = None, problems
    if args.fix is not None:
        fixed, left = _fix(dataset, args, facts)
        save_points(args.fix, fixed.dataset)
        write_json(log, fix_log(args.annotations, args.fix, fixed, left), indent=1)
    _show_table(problems, fixed, left)
    if isinstance(dataset, dict):
        _show_empty_images(dataset)
    if args.report is not None:
        report = {"annotations": args.annotations, "against": args.against, "output": args.fix}
        write_json(args.report, report | check_report(dataset, problems, fixed, left), indent=1)
    errors = sum(problem.is_error for problem in problems)
    counted = f"{errors} errors, {len(problems) - errors} warnings"
    if isinstance(dataset, dict):
        counted += f" in {counts(dataset)}"
    print(f"{args.annotations}: {counted}")
    if fixed is not None:
        for text in fixed.left:
            print(f"left as it is: {text}")
        errors = sum(problem.is_error for problem in left)
        print(
            f"wrote {args.fix}: {counts(fixed.dataset)}; {len(fixed.changes)} changes, listed in"
            f" {log}; {errors} errors, {len(left) - errors} warnings are left"
        )
    return 1 if errors else 0


def _find(
    dataset: Any, args: argparse.Namespace
) -> tuple[list[Problem], tuple[dict[str, ImageFacts], list[Problem]]]:
    """All problems; the facts of images, and those problems that a mended copy has too."""
    from ..footage.near_duplicates import THRESHOLD
    from ..point_json import check_image_root, load_points
    from ..quality.checks import check_dataset, usable_images
    from ..quality.image_facts import inspect_images
    from ..quality.leaks import are_one_folder, find_leaks

    other = None
    if args.against is not None:
        other = load_points(args.against, require=None, may_be_empty=True)
        if args.against_root is not None:
            check_image_root(args.against_root)
    facts: dict[str, ImageFacts] = {}
    problems = check_dataset(
        dataset,
        args.image_root,
        require=args.require,
        same_place=args.same_place,
        double_click=args.double_click,
        facts=facts,
        hashes=other is not None,
        resume=True,
        progress=_progress("images"),
    )
    leaks: list[Problem] = []
    if other is not None and not any(problem.rule == "structure" for problem in problems):
        root = args.against_root or args.image_root
        one_folder = are_one_folder(args.image_root, root)
        other_facts = None
        if args.image_root is not None:
            names = [image["file_name"] for image in usable_images(other["images"])]
            known = facts if one_folder else {}
            unread = [name for name in names if name not in known]
            progress = _progress("images of the other part")
            other_facts = known | inspect_images(
                root, unread, hashes=True, resume=True, progress=progress
            )
        leaks = list(
            find_leaks(
                dataset,
                other,
                facts=None if args.image_root is None else facts,
                other_facts=other_facts,
                same_folder=one_folder,
                threshold=THRESHOLD if args.near_duplicate is None else args.near_duplicate,
            )
        )
    return problems + leaks, (facts, leaks)


def _progress(what: str):
    return functools.partial(show_progress, desc=what, unit="image")


def _fix(
    dataset: Any, args: argparse.Namespace, found: tuple[dict[str, ImageFacts], list[Problem]]
) -> tuple[Fixed, list[Problem]]:
    """The mended copy and what is left in it, leaks too, which are never mended."""
    from ..quality.checks import check_dataset, has_other_size, usable_images
    from ..quality.fixes import fix_dataset

    facts, leaks = found
    unreadable = {name for name, fact in facts.items() if fact.problem is not None}
    other_size = set()
    if facts:
        for image in usable_images(dataset["images"]):
            if has_other_size(image, facts[image["file_name"]]):
                other_size.add(image["file_name"])
    try:
        fixed = fix_dataset(
            dataset,
            require=args.require,
            same_place=args.same_place,
            unreadable=unreadable,
            other_size=other_size,
        )
    except InputError as error:
        raise InputError(f"{args.annotations}: {error}") from None
    left = check_dataset(
        fixed.dataset,
        args.image_root,
        require=args.require,
        same_place=args.same_place,
        double_click=args.double_click,
        facts=facts,
    )
    kept = {f"image id {image.get('id')!r}" for image in fixed.dataset["images"]}
    gone = {f"image id {image.get('id')!r}" for image in dataset["images"]} - kept
    return fixed, left + [leak for leak in leaks if leak.record not in gone]


def _show_table(problems: list[Problem], fixed: Fixed | None, left: list[Problem]) -> None:
    from ..quality.check_report import by_rule
    from ..quality.checks import RULES

    table = by_rule(problems, fixed, left)
    if not table:
        return
    width = max(map(len, table))
    columns = ("found", "changes", "left") if fixed else ("found",)
    head = "".join(f"{column:>9}" for column in columns)
    print(f"\n{'rule':{width}}  level  {head}  what")
    for rule, row in table.items():
        numbers = "".join(f"{row[column]:>9,}" for column in columns)
        print(f"{rule:{width}}  {row['level']:7}{numbers}  {RULES[rule]}")


def _show_empty_images(dataset: dict[str, Any]) -> None:
    from ..quality.checks import images_without_objects

    empty = images_without_objects(dataset)
    if empty:
        print(f"{empty} images hold no object, which is no problem: they are background.")
