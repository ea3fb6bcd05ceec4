"""Telemetry from a table: CSV with a header, columns named by the user where they differ.

Fields are those of `telemetry.FIELDS`, and `time_utc` or `time_video`; a column of a field's name
is that field. Angles are degrees, lengths metres.
"""

from __future__ import annotations

import csv
import datetime
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from .telemetry import FIELDS, Telemetry, from_rows

logger = logging.getLogger(__name__)

TIMES = ("time_utc", "time_video")
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
MAX_FILE_BYTES = 1 << 30


def parse_utc(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time with its zone (`Z` or `+02:00`); ValueError if not."""
    moment = datetime.datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no zone; write 'Z' for UTC")
    return moment.timestamp()


class CsvTelemetry:
    """Reads a table, and later what was appended to it since.

    columns: field -> name of the column, where that differs. unit: of a time in numbers. Times in
    text are ISO 8601 with a zone. grows: the file is still written to; its last line counts once it
    is ended. Of a finished file it counts if it has all cells.

    Raises:
        InputError: no such file, no time or position column, a named column that is not there.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str] | None = None,
        unit: str = "s",
        *,
        grows: bool = True,
    ):
        self._path, self._unit, self._grows = path, UNITS[unit], grows
        self._rows: list[dict[str, float]] = []
        self._offset = self._line = 0
        columns = dict(columns or {})
        unknown = sorted(set(columns) - {*FIELDS, *TIMES})
        if unknown:
            raise InputError(
                f"--columns {unknown[0]}=...: no such field. Fields are"
                f" {', '.join((*TIMES, *FIELDS))}."
            )
        header = self._new_lines()
        if not header:
            raise InputError(f"{path}: is empty. A header and rows are needed.")
        self._delimiter = max(",;\t", key=header[0].count)
        names = [name.strip() for name in self._split(header[0])]
        self._places = {}
        for field in (*TIMES, *FIELDS):
            name = columns.get(field, field)
            if name in names:
                self._places[field] = names.index(name)
            elif field in columns:
                raise InputError(
                    f"{path}: has no column {name!r} (for {field}). It has {', '.join(names)}."
                )
        times = [field for field in TIMES if field in self._places]
        if len(times) != 1 or not {"latitude", "longitude"} <= self._places.keys():
            raise InputError(
                f"{path}: a time (time_utc or time_video), latitude and longitude are needed; the"
                f" columns are {', '.join(names)}. Say which is which, as in --columns"
                " time_utc=timestamp latitude=Lat longitude=Lng."
            )
        self._time = times[0]
        self._take(header[1:])

    @property
    def clock(self) -> str:
        return self._time.removeprefix("time_")

    def update(self) -> bool:
        """Reads what was appended; whether there was anything. A row that cannot be read is left
        out, and told in the log: it must not end a flight."""
        lines = self._new_lines()
        self._take(lines, forgiving=True)
        return bool(lines)

    def telemetry(self, last: int = 0) -> Telemetry:
        """Of all rows, or of the `last` ones."""
        return from_rows(str(self._path), self.clock, self._rows[-last:], gimbal_absolute=True)

    def _new_lines(self) -> list[str]:
        """Whole lines only: the last one of a file that grows may be half written."""
        if self._path.stat().st_size - self._offset > MAX_FILE_BYTES:
            raise InputError(f"{self._path}: is too large. Cut it to the flight.")
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        if (not self._offset and not end) or (not self._grows and self._is_whole(data, end)):
            end = len(data)
        self._offset += end
        try:
            return data[:end].decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path}: is not UTF-8 text ({error}). Save it so.") from None

    @staticmethod
    def _is_whole(data: bytes, end: int) -> bool:
        """Whether the line from `end` on has as many cells as the first one."""
        first, last = data.partition(b"\n")[0], data[end:]
        return all(last.count(mark) >= first.count(mark) for mark in (b",", b";", b"\t"))

    def _split(self, line: str) -> list[str]:
        return next(csv.reader(io.StringIO(line), delimiter=self._delimiter), [])

    def _take(self, lines: list[str], *, forgiving: bool = False) -> None:
        for line in lines:
            self._line += 1
            cells = self._split(line)
            if not any(cell.strip() for cell in cells):
                continue
            try:
                row = self._row(cells)
                if forgiving:
                    from_rows(str(self._path), self.clock, [row], gimbal_absolute=True)
            except InputError as error:
                if not forgiving:
                    raise
                logger.warning("%s The row is left out.", error)
                continue
            self._rows.append(row)

    def _row(self, cells: list[str]) -> dict[str, float]:
        row = {}
        for field, place in self._places.items():
            cell = cells[place].strip() if place < len(cells) else ""
            if cell:
                row[field] = self._number(field, cell)
        time = row.pop(self._time, math.nan)
        if not math.isfinite(time):
            raise self._error(self._time, "", "every row needs a time")
        return {"time": time, **row}

    def _number(self, field: str, cell: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            if field != "time_utc":
                raise self._error(field, cell, "a number is needed") from None
            try:
                return parse_utc(cell)
            except ValueError as error:
                raise self._error(field, cell, str(error)) from None
        if math.isinf(value):
            raise self._error(field, cell, "a finite number is needed")
        return value * self._unit if field in TIMES else value

    def _error(self, field: str, cell: str, rule: str) -> InputError:
        return InputError(f"{self._path}: line {self._line + 1}: {field} {cell!r}: {rule}.")
