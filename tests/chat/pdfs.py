"""PDFs written by hand: pages of text, images, drawings, forms and annotations."""

from collections.abc import Sequence
from dataclasses import dataclass

NUM_OBJECTS = 8
"""Of every file, besides its pages."""
_RESOURCES = (
    "/Resources<</Font<</F1 3 0 R>>/XObject<</Im1 4 0 R/Fm1 5 0 R/Fm2 7 0 R/Fm3 8 0 R>>"
    "/Pattern<</P1 6 0 R>>>>"
)
FULL_PAGE = "q 612 0 0 792 0 0 cm /Im1 Do Q"
LOGO = "q 50 0 0 50 10 10 cm /Im1 Do Q"


@dataclass(frozen=True)
class Page:
    """One page of 612 by 792 points."""

    content: str = ""
    annotations: Sequence[str] = ()
    """Dictionaries, each without its brackets."""
    resources: str = _RESOURCES


def line(text: str) -> str:
    """The operators that write one line."""
    return f"\nBT /F1 12 Tf 72 720 Td ({text}) Tj ET\n"


def pdf(*pages: str | Page, catalog: str = "", extra: Sequence[str] = ()) -> bytes:
    """A file; a page that is a string holds one line of that text.

    `extra` are objects with numbers from 9 on.
    """
    first = NUM_OBJECTS + len(extra) + 1
    drawn = [page if isinstance(page, Page) else Page(line(page)) for page in pages]
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(drawn)))
    objects = [
        f"<</Type/Catalog/Pages 2 0 R{catalog}>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(drawn)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        stream(
            "/Type/XObject/Subtype/Image/Width 8/Height 1/BitsPerComponent 1/ColorSpace/DeviceGray",
            "~",
        ),
        stream(
            f"/Type/XObject/Subtype/Form/BBox[0 0 1 1]/Matrix[612 0 0 792 0 0]{_RESOURCES}",
            "/Im1 Do /Fm1 Do",
        ),
        stream(f"/Type/Pattern/PatternType 1/BBox[0 0 9 9]{_RESOURCES}", "/Im1 Do"),
        stream("/Type/XObject/Subtype/Form/BBox[0 0 1 1]", "/Im1 Do /Fm2 Do"),
        stream(
            f"/Type/XObject/Subtype/Form/BBox[0 0 1 1]/Filter/FlateDecode{_RESOURCES}", "junk" * 9
        ),
        *extra,
    ]
    for i, page in enumerate(drawn):
        notes = "".join(f"<<{annotation}>>" for annotation in page.annotations)
        entries = f"/Contents {first + 1 + 2 * i} 0 R/Annots[{notes}]{page.resources}"
        objects += [
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]{entries}>>",
            stream("", page.content),
        ]
    out, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj{content}endobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer<</Size {size}/Root 1 0 R>>\n"
    return f"{out}{tail}startxref\n{len(out)}\n%%EOF".encode("latin-1")


def stream(entries: str, data: str) -> str:
    """A stream object."""
    return f"<<{entries}/Length {len(data)}>>stream\n{data}\nendstream\n"
