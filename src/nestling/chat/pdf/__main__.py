"""The child process that reads a PDF: `python -m nestling.chat.pdf PAGES CHARS SECONDS SCANNED`.

PDF on stdin, one JSON object on stdout: `{"text": ...}` or `{"problem": ...}`. What people send is
parsed here and not in the server, under limits of memory and time that the kernel keeps.
"""

import json
import logging
import resource
import sys
from collections.abc import Iterable
from io import BytesIO

from pypdf import PdfReader

from nestling.chat.pdf.page import PageReader

MAX_MEMORY_BYTES = 768 * 2**20
"""Of address space; the interpreter and pypdf take about 100 MiB of it."""
MAX_RANGES = 20
"""Ranges of page numbers in one message."""


def main() -> None:
    """Read one PDF."""
    max_pages, max_chars, max_seconds = (int(argument) for argument in sys.argv[1:4])
    _limit_resources(max_seconds)
    logging.lastResort = None
    try:
        data = sys.stdin.buffer.read()
        answer = read_text(data, max_pages, max_chars, marks_pages=sys.argv[4] == "mark")
    except MemoryError:
        answer = {"problem": "it takes too much memory to read"}
    except Exception as error:  # noqa: BLE001 - broken files raise what the parser did not foresee
        answer = {"problem": f"it is not a PDF that can be read ({type(error).__name__})"}
    json.dump(answer, sys.stdout)


def read_text(
    data: bytes, max_pages: int, max_chars: int, *, marks_pages: bool = True
) -> dict[str, str]:
    """Return the text of all pages, or what is wrong; stop once there are `max_chars`.

    Where the text of a page cannot be read, a line of the text says so, or the file is refused.
    """
    reader = PdfReader(BytesIO(data))
    if reader.is_encrypted:
        return {"problem": "it is encrypted"}
    for key, problem in _UNREADABLE_FILES.items():
        if reader.root_object.get(key):
            return {"problem": problem}
    pages = PageReader()
    texts: list[str] = []
    unread: list[int] = []
    num_chars = 0
    has_text = False
    for number, page in enumerate(reader.pages, 1):
        if number > max_pages:
            return {"problem": f"it has more than {max_pages} pages"}
        if num_chars >= max_chars:
            continue
        text, mark = pages.read(page, number)
        has_text = has_text or bool(text)
        unread += [number] if mark else []
        texts += [part for part in (text, mark) if part]
        num_chars += len(text)
    if not has_text:
        return {"problem": "it holds no text; pictures of text are not read"}
    if unread and not marks_pages:
        return {"problem": f"what is on {_shown_pages(unread)} cannot all be read as text"}
    return {"text": "\n\n".join(texts).encode("utf-8", "replace").decode("utf-8")}


_UNREADABLE_FILES = {
    "/NeedsRendering": "it is a dynamic XFA form, whose pages are made only when it is shown",
    "/Collection": "it is a portfolio of other files, which are not read",
}
"""Entries of the catalog under which the pages are a substitute for the content."""


def _shown_pages(numbers: Iterable[int]) -> str:
    """Return the numbers of pages as a person writes them: `pages 2, 5-7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:MAX_RANGES]]
    more = ["..."] if len(ranges) > MAX_RANGES else []
    word = "page" if ranges[0][0] == ranges[-1][1] else "pages"
    return f"{word} {', '.join(shown + more)}"


def _limit_resources(max_seconds: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, max_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
