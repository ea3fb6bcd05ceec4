#!/usr/bin/env python
"""How fast the review page is made, opens and answers, with made-up objects, in headless Chromium.

    python benchmarks/benchmark_review_page.py --objects 5000

First paint is what the browser reports (`first-contentful-paint`); "first picture" is when the
worst object's picture is there. Answers are the longest of several, from the key to the frame after
the next. The browser is the system's `chromium`, or the one named in CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET_PAINT = 2.0
TARGET_MB = 50.0
# Milliseconds from an action to the frame after the next, which shows what it did.
MEASURE = """async () => {
  const frames = () => new Promise((done) => {
    requestAnimationFrame(() => requestAnimationFrame(done));
  });
  const longest = {};
  const measure = async (name, times, act) => {
    longest[name] = 0;
    for (let i = 0; i < times; i++) {
      const begin = performance.now();
      act(i);
      await frames();
      longest[name] = Math.max(longest[name], performance.now() - begin);
    }
  };
  const key = (name) => document.body.dispatchEvent(
    new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const choose = (id, value) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event("change"));
  };
  await measure("accept", 30, () => key("a"));
  await measure("scroll", 60, (i) => scrollTo(0, (i + 1) * 3000));
  await measure("jump to the end", 2, (i) => key(i ? "Home" : "End"));
  await measure("filter", 4, (i) => choose("flag", ["any", "none", "1", ""][i]));
  await measure("sort", 4, (i) => choose("sort", ["score", "image", "class", "severity"][i]));
  await measure("decide all", 2, (i) => document.getElementById(i ? "undo" : "all-accept").click());
  return longest;
}"""


def make_page(folder: Path, objects: int, images: int, max_mb: float) -> tuple[Path, float, int]:
    """Makes data and page; returns the page, the seconds of the latter, and its bytes."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cpr.data.quality.label_quality import label_quality
    from cpr.visualization.review.page import write_review
    from review_data import large_dataset, write_images

    dataset = large_dataset(objects, images, (1280, 960), semantic=60)
    for annotation in dataset["annotations"]:
        annotation["bag_radius"] = 90.0  # crops that have to be made smaller
    # One picture under many names: reading them takes as long as if they differed.
    write_images(folder / "images", ["0.jpg"], (1280, 960))
    for image in dataset["images"][1:]:
        os.link(folder / "images" / "0.jpg", folder / "images" / image["file_name"])
    output = folder / "review.html"
    start = time.perf_counter()
    quality = label_quality(dataset)
    summary = write_review(
        output, dataset, quality, folder / "images", title="Benchmark", max_bytes=max_mb * 1e6
    )
    print(f"pictures: {summary.levels}, {summary.without_room} without")
    return output, time.perf_counter() - start, summary.bytes


def open_page(path: Path, chromium: str) -> dict[str, float]:
    """Seconds until it is painted, and milliseconds of its answers."""
    from playwright.sync_api import sync_playwright

    flags = ["--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.locator(".card.current img").wait_for()
        picture = time.perf_counter() - start
        page.wait_for_load_state("load")
        loaded = time.perf_counter() - start
        paint = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
        )
        memory = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
        answers = page.evaluate(MEASURE)
        browser.close()
    return {"first paint, s": paint, "first picture, s": picture, "all read, s": loaded} | {
        "script memory, MB": memory,
        **{f"{name}, ms": value for name, value in answers.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--max-mb", type=float, default=TARGET_MB)
    parser.add_argument("--output", help="JSON file to write")
    args = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        parser.error("there is no chromium: apt-get install chromium, or name one in CHROMIUM")

    from cpr_deploy.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        path, seconds, size = make_page(Path(folder), args.objects, args.images, args.max_mb)
        result = {"objects": args.objects, "made, s": seconds, "page, MB": size / 1e6}
        result |= open_page(path, chromium)
    for name, value in result.items():
        print(f"{name:20} {value:10.2f}")
    met = result["first paint, s"] <= TARGET_PAINT and result["page, MB"] <= args.max_mb
    print(f"first paint in {TARGET_PAINT:g} s, {args.max_mb:g} MB: {'met' if met else 'missed'}")
    if args.output:
        write_json(args.output, result, indent=1)
    return 0 if met else 1


if __name__ == "__main__":
    from cpr_deploy.files import run_main

    raise SystemExit(run_main(main))
