"""Counts what the content of a page paints: images with their area, paths and text.

Forms and tiling patterns are content within content. Each is looked at once and counted wherever
it is painted, so that no nesting of them takes more time than the file has content.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pypdf import PageObject
from pypdf.generic import ContentStream

MIN_DRAWING_SEGMENTS = 64
"""Lines, curves and rectangles. A letter that is drawn takes about ten; a border, ruled lines or a
coloured ground take fewer than this in all."""
_SEGMENTS = frozenset({b"l", b"c", b"v", b"y", b"re"})
_PAINTS_PATH = frozenset({b"S", b"s", b"f", b"F", b"f*", b"B", b"B*", b"b", b"b*"})
_SHOWS_TEXT = frozenset({b"Tj", b"TJ", b"'", b'"'})
_PICTURES = frozenset({"/Stamp", "/Ink", "/FreeText"})
"""Annotations whose appearance is content; that of others is an icon, a line or a frame."""


@dataclass(frozen=True, slots=True)
class Painting:
    """Tells what was painted. `image_area` is in the unit of the space that it was painted in."""

    num_images: int = 0
    image_area: float = 0.0
    num_segments: int = 0
    num_texts: int = 0
    """Operators that show at least one character code."""

    def plus(self, other: "Painting", scale: float = 1.0) -> "Painting":
        """Return both; areas of `other` are multiplied by `scale`."""
        return Painting(
            self.num_images + other.num_images,
            self.image_area + other.image_area * scale,
            self.num_segments + other.num_segments,
            self.num_texts + other.num_texts,
        )


NOTHING = Painting()
_IMAGE = Painting(num_images=1, image_area=1.0)
"""An image fills the unit square."""


class Painter:
    """Looks at the pages of one file; remembers the forms and patterns that they share."""

    def __init__(self) -> None:
        self._known: dict[int, Painting] = {}

    def page(self, page: PageObject) -> Painting:
        """Return what a page paints, stamps and ink that lie upon it included."""
        contents = page.get_contents()
        total = NOTHING
        if contents is not None:
            total = self._content(contents, _entry(page, "/Resources"))
        for reference in _entry(page, "/Annots") or ():
            annotation = reference.get_object()
            if annotation.get("/Subtype") in _PICTURES:
                appearance = _entry(_entry(annotation, "/AP"), "/N")
                if hasattr(appearance, "get_data"):
                    total = total.plus(self._form(appearance, None))
        return total

    def _content(self, content: ContentStream, resources: Any) -> Painting:
        total = NOTHING
        scale, stack = 1.0, []  # the determinant of the transformation: what an area grows by
        num_segments = 0
        for operands, operator in content.operations:
            if operator in _SEGMENTS:
                num_segments += 1
            elif operator in _PAINTS_PATH:
                total = total.plus(Painting(num_segments=num_segments))
                num_segments = 0
            elif operator == b"n":
                num_segments = 0
            elif operator in _SHOWS_TEXT:
                total = total.plus(Painting(num_texts=int(_has_codes(operands))))
            elif operator == b"q":
                stack.append(scale)
            elif operator == b"Q":
                scale = stack.pop() if stack else scale
            elif operator == b"cm":
                scale *= _determinant(operands)
            elif operator == b"INLINE IMAGE":
                total = total.plus(_IMAGE, scale)
            elif operator == b"Do":
                total = total.plus(self._named(resources, "/XObject", operands), scale)
            elif operator in (b"scn", b"SCN") and operands:
                total = total.plus(self._named(resources, "/Pattern", operands[-1:]), scale)
        return total

    def _named(self, resources: Any, kind: str, operands: Any) -> Painting:
        """Return what an entry of the resources paints; an operand that names none, nothing."""
        found: Any = _entry(_entry(resources, kind), operands[0]) if operands else None
        if not hasattr(found, "get_data"):
            return NOTHING
        return _IMAGE if found.get("/Subtype") == "/Image" else self._form(found, resources)

    def _form(self, form: Any, resources: Any) -> Painting:
        """Return what a form or pattern paints, in the unit of the space that it is put in."""
        if id(form) not in self._known:
            self._known[id(form)] = NOTHING  # what it has of itself
            content = ContentStream(form, None)
            painted = self._content(content, _entry(form, "/Resources") or resources)
            scale = _determinant(_entry(form, "/Matrix") or (1, 0, 0, 1, 0, 0))
            self._known[id(form)] = NOTHING.plus(painted, scale)
        return self._known[id(form)]


def _entry(dictionary: Any, key: Any) -> Any:
    """Return an entry with references followed; None if it or the dictionary is not there."""
    return dictionary[key] if isinstance(dictionary, dict) and key in dictionary else None


def _determinant(matrix: Iterable[Any]) -> float:
    """Return what the matrix `a b c d e f` multiplies areas by."""
    a, b, c, d, _, _ = (float(number) for number in matrix)
    return abs(a * d - b * c)


def _has_codes(operands: Any) -> bool:
    """Return whether the operands of a text operator hold a string that is not empty."""
    return any(
        bool(operand) if isinstance(operand, (str, bytes)) else _has_codes(operand)
        for operand in operands
        if isinstance(operand, (str, bytes, list))
    )
