"""XML without characters that XML cannot hold."""

from __future__ import annotations

from xml.etree import ElementTree

from ..finds import clean


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
