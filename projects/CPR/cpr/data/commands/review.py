"""`apply-review`: what was decided on the review page."""

from __future__ import annotations

import argparse

from cpr_deploy.files import InputError, check_outputs

from .output import counts


def add_apply_review_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "apply-review",
        help="carry out the decisions of tools/review_points.py",
        description="Writes a copy of the reviewed annotations: accepted points stay, rejected ones"
        " become what --rejected says, flagged ones stay and are marked. Each decided annotation"
        " says accepted, rejected or flagged under `review`.",
    )
    parser.add_argument(
        "--annotations", required=True, help="the point JSON that the review page was made from"
    )
    parser.add_argument(
        "--decisions", required=True, help="JSON or CSV that was exported from the review page"
    )
    parser.add_argument("--output", required=True, help="point JSON to write")
    parser.add_argument(
        "--rejected",
        choices=("click", "drop", "ignore"),
        default="click",
        help="click: back to the click (default); drop: leave the object out; ignore: mark it as"
        " ignored, so that its box counts neither as object nor as background",
    )
    parser.set_defaults(run=run_apply_review)


def run_apply_review(args: argparse.Namespace) -> int:
    from ..point_json import is_ignored, load_points, save_points
    from ..quality.review_decisions import apply_decisions, read_decisions

    check_outputs([args.output], [args.annotations, args.decisions])
    dataset = load_points(args.annotations, may_be_empty=True)
    decisions = read_decisions(args.decisions)
    try:
        reviewed, decided = apply_decisions(dataset, decisions, rejected=args.rejected)
    except InputError as error:
        raise InputError(f"{args.decisions}: {error}") from None
    save_points(args.output, reviewed)
    nowhere = sum(
        annotation.get("review") == "rejected" and annotation.get("bbox") is None
        for annotation in reviewed["annotations"]
        if is_ignored(annotation)
    )
    fate = {"click": "back to their click", "drop": "left out", "ignore": "now ignored"}
    print(
        f"{decided['accept']} accepted, {decided['reject']} rejected ({fate[args.rejected]}),"
        f" {decided['flag']} flagged, {decided['undecided']} undecided"
    )
    if args.rejected == "ignore" and nowhere:
        print(f"{nowhere} of the ignored ones have no box: their places count as background")
    print(f"wrote {args.output}: {counts(reviewed)}")
    return 0
