"""Clicks of other tools as point JSON (`tools/prepare_points.py import --format ...`).

A format is one module of this package and one entry of `FORMATS`. The module has

    read(path, images, conventions) -> iterator of `Click` or `Problem`

in the order of the file: a `Click` for each object, a `Problem` for each record that cannot be
used; it raises `InputError` for a file that is not of the format at all. What all formats share
(image sizes, safe names, classes, points inside their image) is checked in `import_points.py`.
"""

from typing import NamedTuple


class Format(NamedTuple):
    """A format that can be imported."""

    module: str  # of this package; imported when it is used
    help: str  # for the command line


FORMATS = {
    "csv": Format(
        "csv_points", "a table (also TSV) whose first line names its columns: file_name,x,y,class"
    ),
}
