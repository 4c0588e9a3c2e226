"""The text of one page, and a mark for what is on the page and not in its text.

A page may be a scan, a drawing or text in a font that names no characters. Such a page is never
passed over in silence; only a blank page is.
"""

import logging

from pypdf import PageObject

from nestling.chat.pdf.annotations import annotation_texts
from nestling.chat.pdf.painting import MIN_DRAWING_SEGMENTS, Painter

FEW_CHARS = 200
"""A page with at least so many is text, whatever its images. Stamps of scanners, numbers of
archives and head lines of faxes are shorter."""
LARGE_IMAGE_SHARE = 0.5
"""Of the page's area; below it the images are illustrations."""


class PageReader:
    """Reads the pages of one file in turn."""

    def __init__(self) -> None:
        self._painter = Painter()
        self._losses = _Losses()
        logging.getLogger("pypdf").addHandler(self._losses)

    def read(self, page: PageObject, number: int) -> tuple[str, str]:
        """Return the text of page `number` and the mark that says what is missing, or ""."""
        try:
            return self._read(page, number)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - broken pages raise what the parser did not foresee
            return "", f"[Page {number} cannot be read.]"

    def _read(self, page: PageObject, number: int) -> tuple[str, str]:
        num_losses = self._losses.num
        extracted = page.extract_text()
        texts = [extracted.strip() if _is_visible(extracted) else "", *annotation_texts(page)]
        text = "\n\n".join(part for part in texts if part)
        missing = "" if len(text) >= FEW_CHARS else self._missing(page, text, extracted)
        if self._losses.num > num_losses:
            return text, f"[Part of page {number} cannot be read.]"
        return text, f"[Page {number} {missing}]" if missing else ""

    def _missing(self, page: PageObject, text: str, extracted: str) -> str:
        """Return what a page of little or no text has besides, or ""."""
        painted = self._painter.page(page)
        if text:
            area = abs(float(page.cropbox.width * page.cropbox.height))
            is_large = painted.num_images and painted.image_area >= LARGE_IMAGE_SHARE * area
            return "holds a large image; text in it cannot be read." if is_large else ""
        if painted.num_images or painted.num_segments >= MIN_DRAWING_SEGMENTS:
            return "is an image; its text cannot be read."
        if painted.num_texts and not extracted.strip("\n").isspace():
            return "has text in a font that cannot be read."
        return ""


class _Losses(logging.Handler):
    """Counts what pypdf leaves out of pages with no more than a warning."""

    num = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.num += any(words in record.msg for words in _LOSS_WARNINGS)


_LOSS_WARNINGS = ("XFormObject", "form XObject invocations", "while decompressing")
"""Words of the warnings that mean lost content."""


def _is_visible(text: str) -> bool:
    """Return whether anything in the text is a character to read.

    Codes of fonts that name no characters come as control or private characters.
    """
    return any(c.isprintable() and not c.isspace() and c != "\ufffd" for c in text)
