"""MATLAB's MAT-files (version 5, as `save` writes without -v7.3), read with limits.

scipy.io.loadmat reads them too, but believes the sizes that a file claims: a damaged one can end
the whole program. Only what annotations need is kept: numeric arrays, cells and structs.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.files import InputError

MAX_BYTES = 1 << 26
MAX_UNPACKED_BYTES = 1 << 26
MAX_DEPTH = 16
MAX_ARRAYS = 100_000
MAX_FIELDS = 1_000

# Types of data elements and classes of arrays; MAT-File Format, MathWorks, tables 1-1 to 1-3.
_COMPRESSED, _MATRIX = 15, 14
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_DTYPES[13] = "u8"
_CELL, _STRUCT, _FIRST_NUMERIC, _LAST_NUMERIC = 1, 2, 6, 15


class _BadFile(Exception):
    """What is wrong with the file."""


def read_variables(path: Path) -> dict[str, Any]:
    """The variables of a MAT-file by name.

    Returns:
        A numeric array is a float64 array of its shape, a cell array a list, a struct array a list
        of dicts, both in MATLAB's order (by columns); anything else is None.

    Raises:
        InputError: no such file, too large, not a MAT-file of version 5, or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes are no annotations of one image.")
    data = path.read_bytes()
    if data[:4] == b"\x89HDF" or data.startswith(b"MATLAB 7.3"):
        raise InputError(f"{path}: is a MAT-file of version 7.3. Save it with -v7 in MATLAB.")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise InputError(f"{path}: is not a MAT-file of version 5. Save it with -v7 in MATLAB.")
    try:
        # Views: nested arrays are no copies of each other.
        return _Reader(order).variables(memoryview(data)[128:])
    except _BadFile as error:
        raise InputError(f"{path}: is a damaged MAT-file ({error}). Copy it again.") from None


class _Reader:
    def __init__(self, order: str) -> None:
        self._order = order
        self._budget = MAX_UNPACKED_BYTES
        self._arrays = 0

    def variables(self, data: memoryview) -> dict[str, Any]:
        variables = {}
        place = 0
        while place < len(data):
            kind, content, place = self._element(data, place, pad=False)
            if kind == _COMPRESSED:
                kind, content, _ = self._element(memoryview(self._unpack(content)), 0)
            if kind != _MATRIX:
                raise _BadFile(f"a variable of type {kind}")
            name, value = self._matrix(content, 0)
            variables[name] = value
        return variables

    def _unpack(self, content: memoryview) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            # One more than allowed: 0 would mean without a limit.
            unpacked = unpacker.decompress(content, self._budget + 1)
        except zlib.error as error:
            raise _BadFile(str(error)) from None
        if len(unpacked) > self._budget:
            raise _BadFile(f"more than {MAX_UNPACKED_BYTES} bytes when unpacked")
        self._budget -= len(unpacked)
        return unpacked

    def _element(
        self, data: memoryview, place: int, *, pad: bool = True
    ) -> tuple[int, memoryview, int]:
        """Type and content of the data element at `place`, and where the next one begins."""
        if place + 8 > len(data):
            raise _BadFile("it ends early")
        kind, size = struct.unpack_from(f"{self._order}II", data, place)
        if kind >> 16:  # a small element: size and type share the first word
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise _BadFile("a small element of more than 4 bytes")
            return kind, data[place + 4 : place + 4 + size], place + 8
        end = place + 8 + size
        if end > len(data):
            raise _BadFile("it ends early")
        return kind, data[place + 8 : end], end + (-size % 8 if pad else 0)

    def _matrix(self, data: memoryview, depth: int) -> tuple[str, Any]:
        """Name and value of an array."""
        self._arrays += 1
        if self._arrays > MAX_ARRAYS:
            raise _BadFile(f"more than {MAX_ARRAYS} arrays")
        if len(data) == 0:
            return "", np.zeros((0, 0))
        if depth > MAX_DEPTH:
            raise _BadFile(f"nested deeper than {MAX_DEPTH}")
        _, flags, place = self._element(data, 0)
        if len(flags) < 4:
            raise _BadFile("an array without flags")
        array_class = struct.unpack_from(f"{self._order}I", flags)[0] & 0xFF
        kind, content, place = self._element(data, place)
        shape = tuple(int(side) for side in self._numbers(kind, content))
        _, name, place = self._element(data, place)
        # Every element takes at least 8 bytes of the file, every number one.
        count = 1
        for side in shape:
            count *= side
            if side < 0 or count > len(data):
                raise _BadFile(f"an array of {' x '.join(map(str, shape))}")
        if array_class == _CELL:
            value, _ = self._matrices(data, place, count, depth)
        elif array_class == _STRUCT:
            value = self._structs(data, place, count, depth)
        elif _FIRST_NUMERIC <= array_class <= _LAST_NUMERIC:
            kind, content, _ = self._element(data, place)
            numbers = self._numbers(kind, content)
            if len(numbers) != count:
                raise _BadFile(f"{len(numbers)} numbers in an array of {count}")
            value = numbers.reshape(shape, order="F")
        else:
            value = None
        return bytes(name).decode("latin-1"), value

    def _matrices(self, data: memoryview, place: int, count: int, depth: int) -> tuple[list, int]:
        values = []
        for _ in range(count):
            kind, content, place = self._element(data, place)
            if kind != _MATRIX:
                raise _BadFile(f"an element of type {kind} in a cell or struct")
            values.append(self._matrix(content, depth + 1)[1])
        return values, place

    def _structs(
        self, data: memoryview, place: int, count: int, depth: int
    ) -> list[dict[str, Any]]:
        kind, content, place = self._element(data, place)
        lengths = self._numbers(kind, content)
        _, content, place = self._element(data, place)
        length = int(lengths[0]) if len(lengths) else 0
        if not 0 < length <= 1024:
            raise _BadFile(f"field names of {length} characters")
        if len(content) > length * MAX_FIELDS:
            raise _BadFile(f"more than {MAX_FIELDS} fields")
        names = [
            bytes(content[start : start + length]).split(b"\0")[0].decode("latin-1")
            for start in range(0, len(content), length)
        ]
        if not names:
            return [{} for _ in range(count)]
        values, _ = self._matrices(data, place, count * len(names), depth)
        rows = [values[start : start + len(names)] for start in range(0, len(values), len(names))]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _numbers(self, kind: int, content: memoryview) -> np.ndarray:
        dtype = _DTYPES.get(kind)
        if dtype is None or len(content) % int(dtype[1]):
            raise _BadFile(f"numbers of type {kind} in {len(content)} bytes")
        # Signalling values of damaged files are no warning's business.
        with np.errstate(all="ignore"):
            return np.frombuffer(content, dtype=self._order + dtype).astype(np.float64)
