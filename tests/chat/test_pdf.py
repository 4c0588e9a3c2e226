"""What is read of a PDF, page by page: no page vanishes unless it is blank."""

import pytest

from nestling.chat.pdf.__main__ import read_text
from tests.chat.pdfs import FULL_PAGE, LOGO, Page, line, pdf, stream

IMAGE = "[Page 2 is an image; its text cannot be read.]"
LARGE = "[Page 2 holds a large image; text in it cannot be read.]"
PART = "[Part of page 2 cannot be read.]"
FONT = "[Page 2 has text in a font that cannot be read.]"
PROSE = "word " * 60
DRAWING = "0 0 m " + "1 1 l " * 70
ANNOTATION = "/Type/Annot/Rect[0 0 9 9]/Subtype"


def read(*pages: str | Page, catalog: str = "", marks_pages: bool = True) -> dict[str, str]:
    return read_text(pdf(*pages, catalog=catalog), 200, 10**6, marks_pages=marks_pages)


SECOND_PAGES = {
    "scanned": (FULL_PAGE, IMAGE),
    "small image": (LOGO, IMAGE),
    "image in a form": ("/Fm1 Do", IMAGE),
    "image in a pattern": ("/Pattern cs /P1 scn 0 0 612 792 re f", IMAGE),
    "inline image": ("BI /W 8 /H 1 /BPC 1 /CS /G ID ~ EI", IMAGE),
    "scan with a stamp": (FULL_PAGE + line("Scanned"), f"Scanned\n\n{LARGE}"),
    "form of a scan with a stamp": ("/Fm1 Do" + line("Scanned"), f"Scanned\n\n{LARGE}"),
    "scan in strips": (
        "q 612 0 0 200 0 0 cm /Im1 Do 1 0 0 1 0 1 cm /Im1 Do Q" + line("7"),
        f"7\n\n{LARGE}",
    ),
    "scan with recognised text": (FULL_PAGE + "3 Tr" + line(PROSE), PROSE.strip()),
    "letter with a logo": (LOGO + line("Dear Ada"), "Dear Ada"),
    "scaled down": (f"q .1 0 0 .1 0 0 cm {FULL_PAGE} Q" + line("x"), "x"),
    "drawing": (DRAWING + "S", IMAGE),
    "clip": (DRAWING + "W n", ""),
    "ground": ("1 1 1 rg 0 0 612 792 re f", ""),
    "rules": ("0 0 m 1 1 l S " * 30, ""),
    "nothing": ("", ""),
    "no text in the text": (line(""), ""),
    "spaces": (line("   "), ""),
    "unbalanced": ("Q Q" + line("x"), "x"),
    "font that is not there": ("BT /F9 12 Tf (abc) Tj ET", FONT),
    "font without characters": ("BT /F1 12 Tf [<0102> 3] TJ ET", FONT),
    "broken form": (line("x") + "/Fm3 Do", f"x\n\n{PART}"),
    "form that is not there": (line("x") + "/Fm9 Do", f"x\n\n{PART}"),
    "broken content": (") ] >> (", "[Page 2 cannot be read.]"),
    "form within itself": ("/Fm2 Do", IMAGE),
}


@pytest.mark.parametrize("name", SECOND_PAGES)
def test_a_page_beside_one_of_text(name: str) -> None:
    content, expected = SECOND_PAGES[name]
    text = "\n\n".join(part for part in ("one", expected, "three") if part)
    assert read("one", Page(content), "three") == {"text": text}


def test_an_inline_image_needs_no_resources() -> None:
    image = Page("q 612 0 0 792 0 0 cm BI /W 8 /H 1 /BPC 1 /CS /G ID ~ EI Q", resources="")
    assert read("one", image) == {"text": f"one\n\n{IMAGE}"}


def test_a_file_without_any_text_is_refused() -> None:
    for pages in ([Page(FULL_PAGE)] * 2, [Page("")], [Page(") ] >> (")]):
        problem = "it holds no text; pictures of text are not read"
        assert read(*pages) == {"problem": problem}


def test_pages_are_named_where_the_setting_refuses_them() -> None:
    scan = Page(FULL_PAGE)
    assert "text" in read("one", Page(""), marks_pages=False)
    problem = "what is on page 2 cannot all be read as text"
    assert read("one", scan, marks_pages=False) == {"problem": problem}
    problem = "what is on pages 2-3, 5 cannot all be read as text"
    assert read("one", scan, scan, "four", scan, marks_pages=False) == {"problem": problem}
    mixed: list[str | Page] = ["one", scan] * 40
    problem = read(*mixed, marks_pages=False)["problem"]
    assert problem.startswith("what is on pages 2, 4,")
    assert ", 40, ... cannot" in problem


ANNOTATIONS = {
    "field": ("/Widget/FT/Tx/T(name)/V(Ada)", "name: Ada"),
    "field in a field": (
        "/Widget/T(first)/Parent<</FT/Tx/T(name)/V(Ada)>>",
        "name.first: Ada",
    ),
    "described": ("/Widget/FT/Tx/T(f1)/TU(Your name)/V(Ada)", "Your name: Ada"),
    "nameless": ("/Widget/FT/Tx/V(Ada)", "Ada"),
    "choices": ("/Widget/FT/Ch/T(kinds)/V[(a)(b)]", "kinds: a, b"),
    "ticked": ("/Widget/FT/Btn/T(agreed)/AS/Yes", "agreed: Yes"),
    "not ticked": ("/Widget/FT/Btn/T(agreed)/AS/Off", ""),
    "empty": ("/Widget/FT/Tx/T(name)", ""),
    "signature": ("/Widget/FT/Sig/T(signed)/V<</Name(Ada)>>", ""),
    "text box": ("/FreeText/Contents(in a box)", "in a box"),
    "note": ("/Text/Contents(check this)", "Note: check this"),
    "hidden": ("/Text/F 2/Contents(check this)", ""),
    "link": ("/Link/Contents(go there)", ""),
    "stamp": ("/Stamp/AP<</N 5 0 R>>", IMAGE),
    "icon": ("/Text/AP<</N 5 0 R>>", ""),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_what_lies_upon_a_page(name: str) -> None:
    annotation, expected = ANNOTATIONS[name]
    page = Page("", [f"{ANNOTATION}{annotation}"])
    assert read("one", page) == {"text": f"one\n\n{expected}".strip()}


def test_a_field_that_is_its_own_parent_ends() -> None:
    page = Page("", [f"{ANNOTATION}/Widget/FT/Tx/V(Ada)/Parent 9 0 R"])
    assert read(page) == {"text": "Ada"}


@pytest.mark.parametrize("entry", ["/NeedsRendering true", "/Collection<</View/D>>"])
def test_pages_that_stand_in_for_the_content_are_not_taken_for_it(entry: str) -> None:
    assert "problem" in read("Please open this elsewhere", catalog=entry)


def test_forms_within_forms_take_no_time_of_their_own() -> None:
    """Each of 40 forms paints the next twice, so the last is painted 2 to the 39 times."""
    forms = [
        stream(
            "/Type/XObject/Subtype/Form/BBox[0 0 1 1]"
            f"/Resources<</XObject<</Next {9 + i + 1} 0 R/Im1 4 0 R>>>>",
            "/Next Do /Next Do" if i < 39 else "/Im1 Do",
        )
        for i in range(40)
    ]
    page = Page("/Fm0 Do", resources="/Resources<</XObject<</Fm0 9 0 R>>>>")
    assert read_text(pdf("one", page, extra=forms), 200, 10**6) == {"text": f"one\n\n{PART}"}
