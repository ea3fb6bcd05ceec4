"""The class names in the data.yaml of a YOLO data set.

Only the entry `names` is read, in the forms that YOLO's tools write, so that no YAML library is
needed and nothing in the file can expand:

    names: [seal, bird]        names:            names:            names: {0: seal, 1: bird}
                                 0: seal           - seal
                                 1: bird           - bird
"""

from __future__ import annotations

import re
from pathlib import Path

from cpr_deploy.files import InputError

MAX_BYTES = 1 << 22
EXAMPLE = "names: [seal, bird]"

_KEY = re.compile(r"""(?:names|'names'|"names")\s*:(?=\s|$)""")
_INDEX = re.compile(r"""(?:(\d{1,9})|'(\d{1,9})'|"(\d{1,9})")\s*:(?=\s|$)""", re.ASCII)
# YAML folds a text over several lines in ways of its own; so many characters end a line in it.
_NEW_LINE = r"\n\x85\u2028\u2029"
_SINGLE_QUOTED = re.compile(rf"'((?:[^'{_NEW_LINE}]|'')*)'")
_DOUBLE_QUOTED = re.compile(rf'"((?:[^"\\{_NEW_LINE}]|\\.)*)"')
_PLAIN_IN_FLOW = re.compile(r"[^,\[\]{}\n]*")
_BLANK = re.compile(r"(?:\s|(?<=\s)#[^\n]*)*")
# What begins something else in YAML: anchors, tags, blocks of text ...
_SPECIAL = tuple("&*!|>%@`[]{}#,'\"")
_NOT_PLAIN = re.compile(rf"^[-?](\s|$)|:(\s|$)|[{_NEW_LINE}]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPES = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f"}
_ESCAPES |= {"r": "\r", "e": "\x1b", "N": "\x85", "_": "\xa0", "L": "\u2028", "P": "\u2029"}
_ESCAPES |= {character: character for character in ' "/\\'}


class _UnknownForm(Exception):
    """A form of YAML that is not read here."""


def read_names(path: Path) -> dict[int, str]:
    """Class index -> name.

    Raises:
        InputError: no such file, too large, not UTF-8, no entry `names` or one of another form.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes are no list of classes.")
    try:
        # Not splitlines(): a name may hold characters that it takes for ends of lines.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
    for number, line in enumerate(lines):
        match = _KEY.match(line)
        if match is None:
            continue
        where = f"{path}: line {number + 1}"
        rest = line[match.end() :].strip()
        following = lines[number + 1 :]
        try:
            if rest.startswith(("[", "{")):
                names = _flow("\n".join([rest, *following]))
            elif not rest or rest.startswith("#"):
                names = _block(following)
            else:
                raise _UnknownForm(rest[:30])
        except _UnknownForm as error:
            raise InputError(
                f"{where}: names is written in a way that is not read here, at {str(error)!r}."
                f" Write `{EXAMPLE}`."
            ) from None
        if not names:
            raise InputError(f"{where}: names is empty. Write `{EXAMPLE}`.")
        return names
    raise InputError(f"{path}: has no entry names. Add the classes: `{EXAMPLE}`.")


def _block(lines: list[str]) -> dict[int, str]:
    """One name a line, after a dash or its index."""
    names: dict[int, str] = {}
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text == "-" or text.startswith("- "):
            _add(names, len(names), _block_value(text[1:].strip()))
        elif not line[0].isspace():
            break  # the next entry of the file
        else:
            index, end = _index(text, 0)
            _add(names, index, _block_value(text[end:].strip()))
    return names


def _block_value(text: str) -> str:
    if text.startswith(("'", '"')):
        value, end = _quoted(text, 0)
        if not re.fullmatch(r"(\s+#.*)?\s*", text[end:]):
            raise _UnknownForm(text[:30])
        return value
    return _plain(re.split(r"\s#", text, maxsplit=1)[0])


def _flow(text: str) -> dict[int, str]:
    """A list in brackets or indices and names in braces, over one line or several."""
    names: dict[int, str] = {}
    closing = "]" if text[0] == "[" else "}"
    place = 1
    while True:
        place = _BLANK.match(text, place).end()
        if text[place : place + 1] == closing:
            return names
        index = len(names)
        if closing == "}":
            index, place = _index(text, place)
            place = _BLANK.match(text, place).end()
        if text[place : place + 1] in ("'", '"'):
            value, place = _quoted(text, place)
        else:
            match = _PLAIN_IN_FLOW.match(text, place)
            value, place = _plain(match[0]), match.end()
            if " #" in match[0]:
                raise _UnknownForm(value[:30])
        _add(names, index, value)
        place = _BLANK.match(text, place).end()
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != closing:
            raise _UnknownForm(text[place : place + 30])


def _index(text: str, place: int) -> tuple[int, int]:
    """A class index before a colon, and where it ends."""
    match = _INDEX.match(text, place)
    if match is None:
        raise _UnknownForm(text[place : place + 30])
    return int(next(filter(None, match.groups()))), match.end()


def _quoted(text: str, place: int) -> tuple[str, int]:
    single = text[place] == "'"
    match = (_SINGLE_QUOTED if single else _DOUBLE_QUOTED).match(text, place)
    if match is None:
        raise _UnknownForm(text[place : place + 30])
    value = match[1].replace("''", "'") if single else _ESCAPE.sub(_unescaped, match[1])
    return value, match.end()


def _unescaped(match: re.Match) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        if match[4] not in _ESCAPES:
            raise _UnknownForm(match[0])
        return _ESCAPES[match[4]]
    if int(code, 16) > 0x10FFFF:
        raise _UnknownForm(match[0])
    return chr(int(code, 16))


def _plain(text: str) -> str:
    text = text.strip()
    if not text or text.startswith(_SPECIAL) or re.search(_NOT_PLAIN, text):
        raise _UnknownForm(text[:30])
    return text


def _add(names: dict[int, str], index: int, name: str) -> None:
    if index in names:
        raise _UnknownForm(f"index {index}, which is there twice")
    names[index] = name
