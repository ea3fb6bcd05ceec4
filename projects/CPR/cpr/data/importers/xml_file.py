"""XML annotation files, read element by element, with limits and without entities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from cpr_deploy.files import InputError

MAX_BYTES = 2 << 30
MAX_DEPTH = 32
# Of one image: the most crowded images have some 10,000 objects.
MAX_ELEMENTS = 1_000_000
# Of a single tag, and of all text of one image.
MAX_TOKEN_BYTES = 1 << 24
_CHUNK = 1 << 16
# No element found, unclosed token, partial character, unclosed CDATA section.
_CUT = (3, 5, 6, 20)


class Element:
    """An XML element: tag, attributes, the line where it begins, children and text."""

    __slots__ = ("tag", "attributes", "line", "children", "pieces")

    def __init__(self, tag: str, attributes: dict[str, str], line: int) -> None:
        self.tag = tag
        self.attributes = attributes
        self.line = line
        self.children: list[Element] = []
        self.pieces: list[str] = []  # of its text

    @property
    def text(self) -> str:
        """All text directly in it."""
        return "".join(self.pieces)

    def find(self, tag: str) -> Element | None:
        """The first child of this tag."""
        return next((child for child in self.children if child.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        """The text of the first child of this tag, without spaces around it."""
        child = self.find(tag)
        return None if child is None else child.text.strip()

    def walk(self) -> Iterator[Element]:
        """This element and all below it, in the order of the file."""
        stack = [self]
        while stack:
            element = stack.pop()
            yield element
            stack.extend(reversed(element.children))


def read_children(path: Path, root: str) -> Iterator[Element]:
    """The children of the file's outermost element, one after the other, each with all below it.

    Only one of them is held at a time, so large files need little memory.

    Args:
        path: the file; its encoding is the one that it declares, or UTF-8.
        root: the tag that its outermost element must have.

    Raises:
        InputError: no such file, too large, not XML, cut, of another root, too deep, or with a
            DOCTYPE, which could make a small file expand to gigabytes.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes is more than {MAX_BYTES}. Split the file.")
    reader = _Reader(path, root)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield from reader.feed(chunk)
    yield from reader.feed(b"", is_last=True)


class _Reader:
    def __init__(self, path: Path, root: str) -> None:
        self._path, self._root = path, root
        self.fed = 0
        self._reached = 0  # bytes up to the last event
        self._depth = 0
        self._elements = self._characters_read = 0  # of the current child of the root
        self._open: list[Element] = []
        self._done: list[Element] = []
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, chunk: bytes, is_last: bool = False) -> list[Element]:
        try:
            self._parser.Parse(chunk, is_last)
        except expat.ExpatError as error:
            fix = "Correct it there, or save the file again as UTF-8."
            if error.code in _CUT:
                fix = "The file seems cut: copy it again."
            raise InputError(
                f"{self._path}: not valid XML at line {error.lineno}, column {error.offset}:"
                f" {expat.ErrorString(error.code)}. {fix}"
            ) from None
        except InputError:
            raise
        except (LookupError, ValueError) as error:  # an encoding that Python does not know
            raise InputError(f"{self._path}: {error}. Save it as UTF-8.") from None
        self.fed += len(chunk)
        if self.fed - self._reached > MAX_TOKEN_BYTES + _CHUNK:
            raise InputError(
                f"{self._path}: a single tag after line {self._parser.CurrentLineNumber} is longer"
                f" than {MAX_TOKEN_BYTES} bytes. Remove it."
            )
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._reached = self._parser.CurrentByteIndex
        self._depth += 1
        line = self._parser.CurrentLineNumber
        if self._depth == 1:
            if tag != self._root:
                raise InputError(
                    f"{self._path}: its outermost element is <{tag[:50]}>, not <{self._root}>."
                    " Give a file of the format."
                )
            return
        if self._depth > MAX_DEPTH:
            raise InputError(f"{self._path}: line {line}: nested deeper than {MAX_DEPTH}.")
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise InputError(f"{self._path}: line {line}: one part has more than {MAX_ELEMENTS}.")
        element = Element(tag, attributes, line)
        if self._open:
            self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, tag: str) -> None:
        self._reached = self._parser.CurrentByteIndex
        self._depth -= 1
        if not self._open:
            return
        element = self._open.pop()
        if not self._open:
            self._done.append(element)
            self._elements = self._characters_read = 0

    def _characters(self, text: str) -> None:
        self._reached = self._parser.CurrentByteIndex
        if self._open:
            self._characters_read += len(text)
            if self._characters_read > MAX_TOKEN_BYTES:
                raise InputError(
                    f"{self._path}: line {self._parser.CurrentLineNumber}: more than"
                    f" {MAX_TOKEN_BYTES} characters of text in one part. Remove them."
                )
            self._open[-1].pieces.append(text)

    def _doctype(self, *_) -> None:
        raise InputError(
            f"{self._path}: line {self._parser.CurrentLineNumber}: holds a DOCTYPE, which no"
            " annotation file needs and which can make a small file very large. Remove it."
        )
