"""A data card: what a data set holds, where it comes from and what it is not good for, as markdown.

The sections follow T. Gebru et al., "Datasheets for Datasets" (2021). What the files know is filled
in; what only the owner knows is a marked block, whose text is kept when the card is written again.
"""

from __future__ import annotations

import re
import statistics as mean_of
from collections.abc import Mapping, Sequence
from typing import Any

from .measure import markdown_tables

# A text that holds a mark itself is no block: something between two blocks has lost one.
_BLOCK = re.compile(
    r"<!-- owner: ([a-z-]+) -->\n((?:(?!<!-- owner: |<!-- end -->).)*)<!-- end -->", re.DOTALL
)
_TO_FILL_IN = "**To be filled in:** "


def owners_text(card: str) -> dict[str, str]:
    """What an earlier card holds in its marked blocks, by their names.

    Nothing if any mark is missing or twice: a text could be lost then.
    """
    blocks = _BLOCK.findall(card)
    texts = {name: text.removesuffix("\n") for name, text in blocks}
    if not len(texts) == len(blocks) == card.count("<!-- owner: ") == card.count("<!-- end -->"):
        return {}
    return texts


def data_card(
    title: str,
    parts: Mapping[str, dict[str, Any]],
    result: dict[str, Any],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    owner: Mapping[str, str] | None = None,
) -> str:
    """The data card of a data set.

    Args:
        title: the name of the data set.
        parts: point JSONs by the name of the part.
        result: `cpr.data.statistics.statistics` of them.
        pictures: file name, relative to the card, and caption of each plot.
        owner: texts of the marked blocks that replace the questions, see `owners_text`.
    """
    owner = owner or {}

    def block(name: str, question: str) -> str:
        return f"<!-- owner: {name} -->\n{owner.get(name, _TO_FILL_IN + question)}\n<!-- end -->"

    sections = [
        f"# Data card: {_text(title)}",
        "Written by `tools/prepare_points.py statistics`, which writes it again when the data"
        " changes. Edit only between `owner` and `end`: that text is kept.",
        "## Motivation",
        block("motivation", "what was the data set made for, by whom, and who paid for it?"),
        "## Composition",
        _composition(parts, result),
        block("composition", "what do the images show, and what counts as an object of a class?"),
        "## Collection",
        _collection(parts),
        block(
            "collection",
            "which camera, from where and when; did people who can be recognised agree, or is there"
            " another ground to hold pictures of them?",
        ),
        "## Clicks",
        _clicks(parts, result),
        block("clicks", "who clicked, with which instructions, and how was it checked?"),
        "## Parts",
        _parts(parts),
        "## Statistics",
        "Mean ± standard deviation over the objects of a part (of the population). Absolute size:"
        " sqrt(w h) of the box in px; relative size: sqrt(w h / (W H)) for an image of W x H px;"
        " aspect ratio: w / h. Regions (`ignore`, `iscrowd`) are not counted as objects.",
        markdown_tables(result).rstrip(),
        *(f"![{caption}]({name})" for name, caption in pictures),
        "## Known limits",
        _limits(parts, result),
        block("limits", "what is missing, wrong or one-sided; what must it not be used for?"),
        "## Licence",
        _licences(parts),
        block("licence", "under which licence may images and annotations be used and passed on?"),
        "## Upkeep",
        block(
            "upkeep", "who answers questions and mends errors, and where do new versions appear?"
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _composition(parts: Mapping[str, dict], result: dict[str, Any]) -> str:
    total = result["all"]
    shapes = {(i["width"], i["height"]) for part in parts.values() for i in part["images"]}
    names = ", ".join(_text(name) for name in total["per_class"])
    lines = [
        f"- {total['images']:,} images, {total['images_without_objects']:,} of them without an"
        " object.",
        f"- {total['annotations']:,} objects of {len(total['per_class'])} classes: {names}.",
        f"- {total['regions']:,} regions that are left out of training and scoring.",
        f"- {total['with_point']:,} objects have a point, {total['with_box']:,} a box.",
    ]
    if len(shapes) == 1:
        lines.append("- All images are {} x {} px.".format(*shapes.pop()))
    else:
        widths, heights = zip(*shapes, strict=True)
        lines.append(
            f"- Images of {min(widths)} to {max(widths)} px width and {min(heights)} to"
            f" {max(heights)} px height ({len(shapes)} sizes)."
        )
    if any(i.get("corner") or i.get("cut_corner") for p in parts.values() for i in p["images"]):
        lines.append("- Images are tiles of larger ones; sizes are relative to the tile.")
    return "\n".join(lines)


def _collection(parts: Mapping[str, dict]) -> str:
    frames = [
        image
        for part in parts.values()
        for image in part["images"]
        if isinstance(image.get("video"), str) and isinstance(image.get("seconds"), (int, float))
    ]
    if not frames:
        return "The image records do not say how the images were collected."
    videos: dict[str, list[float]] = {}
    for image in frames:
        videos.setdefault(str(image.get("sequence", image["video"])), []).append(image["seconds"])
    lines = [f"- {len(frames):,} images are frames of {len(videos):,} videos."]
    gaps = [
        later - sooner
        for seconds in videos.values()
        for sooner, later in zip(sorted(seconds), sorted(seconds)[1:], strict=False)
    ]
    if gaps:
        lines.append(f"- Between neighbouring frames of a video: {mean_of.median(gaps):.3g} s in")
        lines[-1] += f" the median, {min(gaps):.3g} s at the least."
    settings = next((p["footage"] for p in parts.values() if _is_dict(p.get("footage"))), None)
    if settings is not None:
        lines += _footage(settings)
    longest = sorted(videos.items(), key=lambda item: (-len(item[1]), item[0]))
    lines += ["", "| video | frames | from s | to s |", "|---|---:|---:|---:|"]
    for name, seconds in longest[:20]:
        lines.append(
            f"| {_text(name)} | {len(seconds)} | {min(seconds):.1f} | {max(seconds):.1f} |"
        )
    if len(longest) > 20:
        lines.append(f"| {len(longest) - 20} more | {sum(len(s) for _, s in longest[20:])} | | |")
    return "\n".join(lines)


def _footage(settings: dict[str, Any]) -> list[str]:
    """What `frames` recorded."""
    if settings.get("every_seconds") is not None:
        rule = f"one frame each {settings['every_seconds']} s"
    elif settings.get("scene_change") is not None:
        rule = f"a frame for each change of the grey values by {settings['scene_change']}"
    else:
        rule = f"one frame in {settings.get('every') or 50}"
    lines = [f"- Taken by `frames`: {rule}, as {settings.get('image_format')}."]
    if settings.get("threshold") is None:
        lines.append("- Near-duplicates were kept.")
    else:
        across = " or of another video" if settings.get("across") else ""
        lines.append(
            f"- {settings.get('dropped')} frames were dropped because their perceptual hash differs"
            f" in at most {settings['threshold']} of 64 bits from the last one kept of their video"
            f"{across}; {settings.get('frames')} were kept."
        )
    if settings.get("problems"):
        lines.append(f"- {settings['problems']} damaged places in the videos were left out.")
    return lines


def _clicks(parts: Mapping[str, dict], result: dict[str, Any]) -> str:
    if not result["all"]["annotations"]:
        return "Nothing is annotated yet."
    if not result["all"]["with_point"]:
        return "There are no clicks: objects have boxes only."
    lines = []
    for name, part in parts.items():
        objects = [a for a in part["annotations"] if a.get("point") is not None]
        settings = part.get("coarse_points")
        if _is_dict(settings):
            text = (
                f"simulated by `coarse` from {settings.get('source')}, sigma"
                f" {settings.get('sigma')}, seed {settings.get('seed')}"
            )
        else:
            text = "how they were made is not recorded"
        refined = sum("coarse_point" in a for a in objects)
        if refined:
            moved = sum(bool(a.get("refined")) for a in objects)
            text += f"; {refined:,} were given to a refiner, which moved {moved:,}"
        lines.append(f"- {_text(name)}: {len(objects):,} points, {text}.")
    return "\n".join(lines)


def _parts(parts: Mapping[str, dict]) -> str:
    lines = []
    for name, part in parts.items():
        sequences = {repr(i["sequence"]) for i in part["images"] if "sequence" in i}
        of = f" of {len(sequences):,} sequences" if sequences else ""
        lines.append(f"- {_text(name)}: {len(part['images']):,} images{of}.")
    return "\n".join(lines)


def _limits(parts: Mapping[str, dict], result: dict[str, Any]) -> str:
    """What the files themselves show."""
    lines = []
    for what, key in (("sequences", "sequence"), ("image files", "file_name")):
        seen: dict[str, set[str]] = {}
        for name, part in parts.items():
            for image in part["images"]:
                if key in image:
                    seen.setdefault(str(image[key]), set()).add(name)
        shared = sorted(value for value, names in seen.items() if len(names) > 1)
        if shared:
            lines.append(
                f"- {len(shared)} {what} are in more than one part, for example"
                f" {_text(shared[0])}: figures of the held-out part are too good."
            )
    for name, entry in result["parts"].items():
        absent = [_text(c) for c, values in entry["per_class"].items() if not values["annotations"]]
        if absent and result["all"]["annotations"]:
            more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
            lines.append(f"- {_text(name)} has no {', '.join(absent[:10])}{more}.")
    total = result["all"]
    if total["annotations"] and not total["with_box"]:
        lines.append("- No object has a box: sizes are not known, and no score that needs boxes.")
    elif total["with_box"] < total["annotations"]:
        lines.append(
            f"- {total['annotations'] - total['with_box']:,} objects have no box: sizes are those"
            " of the others, and scores that need boxes leave them out."
        )
    return "\n".join(lines) or "- The files show none."


def _licences(parts: Mapping[str, dict]) -> str:
    """What the JSON files say."""
    names = []
    for part in parts.values():
        for licence in part.get("licenses") or []:
            if _is_dict(licence) and licence.get("name"):
                text = " ".join(str(licence[k]) for k in ("name", "url") if licence.get(k))
                names.append(f"- {_text(text)}")
    return "\n".join(dict.fromkeys(names))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _text(text: str) -> str:
    """A name that is no markup."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", str(text))
