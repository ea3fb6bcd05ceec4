"""XML without characters that XML cannot hold."""

from __future__ import annotations

import re
from xml.etree import ElementTree

# All but these may not be in XML 1.0, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def add(parent: ElementTree.Element, tag: str, text: str = "", **attributes: str):
    """A child element with text."""
    child = ElementTree.SubElement(
        parent, tag, {key: clean(value) for key, value in attributes.items()}
    )
    if text:
        child.text = clean(text)
    return child


def document(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"
