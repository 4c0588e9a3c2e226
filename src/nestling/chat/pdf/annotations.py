"""Text that lies upon a page and not in its content: filled form fields, text boxes, notes.

Left out: hidden annotations, buttons, signatures, links, files that are attached.
"""

from typing import Any

from pypdf import PageObject

_HIDDEN = 2
"""The flag of annotations that are never shown (ISO 32000-1, table 165)."""
_UNREAD = frozenset({"/Link", "/Popup", "/FileAttachment"})
MAX_DEPTH = 32
"""Of fields within fields, whose names and values are inherited."""


def annotation_texts(page: PageObject) -> list[str]:
    """Return one text for each annotation that holds any, in the file's order."""
    texts = []
    for reference in page.get("/Annots", None) or ():
        annotation = reference.get_object()
        if isinstance(annotation, dict) and not int(annotation.get("/F", 0)) & _HIDDEN:
            texts.append(_text(annotation))
    return [text for text in texts if text]


def _text(annotation: Any) -> str:
    kind = annotation.get("/Subtype")
    if kind == "/Widget":
        return _field_text(annotation)
    contents = _line(annotation.get("/Contents")) if kind not in _UNREAD else ""
    return f"Note: {contents}" if contents and kind != "/FreeText" else contents


def _field_text(widget: Any) -> str:
    """Return `name: value` of a form field that is filled; a box that is ticked has its state."""
    chain = _chain(widget)
    kind = _inherited(chain, "/FT")
    if kind == "/Btn":
        state = widget.get("/AS", "/Off")
        value = "" if state == "/Off" else str(state).removeprefix("/")
    elif kind in ("/Tx", "/Ch"):
        value = _line(_inherited(chain, "/V"))
    else:
        value = ""
    if not value:
        return ""
    own_names = [_line(field.get("/T")) for field in reversed(chain)]
    name = _line(_inherited(chain, "/TU")) or ".".join(name for name in own_names if name)
    return f"{name}: {value}" if name else value


def _chain(widget: Any) -> list[Any]:
    """Return the widget and the fields that it is part of, the outermost last."""
    chain = [widget]
    while len(chain) < MAX_DEPTH and "/Parent" in chain[-1]:
        chain.append(chain[-1]["/Parent"])
    return chain


def _inherited(chain: list[Any], key: str) -> Any:
    return next((field[key] for field in chain if key in field), None)


def _line(value: Any) -> str:
    """Return a text string, a stream of text or a list of choices as text."""
    if hasattr(value, "get_object"):
        value = value.get_object()
    if isinstance(value, list):
        return ", ".join(text for text in map(_line, value) if text)
    if hasattr(value, "get_data"):
        value = value.get_data().decode("utf-8", "replace")
    return value.strip() if isinstance(value, str) else ""
