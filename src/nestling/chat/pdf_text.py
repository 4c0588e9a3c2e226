"""The child process that reads a PDF: `python -m nestling.chat.pdf_text PAGES CHARS SECONDS`.

PDF on stdin, one JSON object on stdout: `{"text": ...}` or `{"problem": ...}`. What people send is
parsed here and not in the server, under limits of memory and time that the kernel keeps.
"""

import json
import logging
import resource
import sys
from io import BytesIO

from pypdf import PdfReader
from pypdf.errors import PyPdfError

MAX_MEMORY_BYTES = 768 * 2**20
"""Of address space; the interpreter and pypdf take about 100 MiB of it."""


def main() -> None:
    """Read one PDF."""
    max_pages, max_chars, max_seconds = (int(argument) for argument in sys.argv[1:4])
    _limit_resources(max_seconds)
    logging.disable()
    try:
        answer = read_text(sys.stdin.buffer.read(), max_pages, max_chars)
    except MemoryError:
        answer = {"problem": "it takes too much memory to read"}
    except (
        PyPdfError,
        RecursionError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        answer = {"problem": f"it is not a PDF that can be read ({type(error).__name__})"}
    except AttributeError:
        answer = {"problem": "it is not a PDF that can be read"}
    json.dump(answer, sys.stdout)


def read_text(data: bytes, max_pages: int, max_chars: int) -> dict[str, str]:
    """Return the text of all pages, or what is wrong; stops once there are `max_chars`."""
    reader = PdfReader(BytesIO(data))
    if reader.is_encrypted:
        return {"problem": "it is encrypted"}
    texts: list[str] = []
    num_chars = 0
    for number, page in enumerate(reader.pages, 1):
        if number > max_pages:
            return {"problem": f"it has more than {max_pages} pages"}
        if num_chars < max_chars:
            texts.append(page.extract_text().strip())
            num_chars += len(texts[-1])
    text = "\n\n".join(text for text in texts if text)
    if not text:
        return {"problem": "it holds no text; pictures of text are not read"}
    return {"text": text.encode("utf-8", "replace").decode("utf-8")}


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
