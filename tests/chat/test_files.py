"""What a PDF may take: time, pages, characters, memory; and that its reader never outlives it."""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import pytest

from nestling.chat.files import FileLimits, FileReader, ScannedPages, shown_file
from nestling.chat.template import AttachedFile, ChatMessage
from nestling.errors import InvalidRequestError
from tests.chat.pdfs import FULL_PAGE, Page, pdf

PARAM = "messages[0].content[1].file.file_data"


class CountedTokenizer:
    """The one thing that is asked of a tokenizer here."""

    max_token_chars = 4


def reader(
    max_pages: int = 200,
    timeout_s: float = 10.0,
    max_model_len: int = 1000,
    scanned_pages: ScannedPages = "mark",
) -> FileReader:
    limits = FileLimits(max_pages, timeout_s, scanned_pages)
    return FileReader(limits, lambda: max_model_len, CountedTokenizer())  # type: ignore[arg-type]


def message(data: bytes, filename: str | None = "a.pdf") -> ChatMessage:
    return ChatMessage("user", "before after", (AttachedFile(7, filename, data, PARAM),))


async def read(data: bytes, **limits: float | str) -> str:
    (found,) = await reader(**limits).read_all([message(data)])  # type: ignore[arg-type]
    return found.text


async def test_text_stands_where_the_part_was() -> None:
    assert await read(pdf("one", "two")) == "before \n\nFile: a.pdf\n\none\n\ntwo\n\nafter"


async def test_pages() -> None:
    assert "x" in await read(pdf(*["x"] * 3), max_pages=3)
    with pytest.raises(InvalidRequestError, match="more than 2 pages") as caught:
        await read(pdf(*["x"] * 3), max_pages=2)
    assert (caught.value.param, caught.value.code) == (PARAM, "invalid_file")


async def test_scanned_pages_are_marked_or_refused_as_the_setting_says() -> None:
    data = pdf("one", Page(FULL_PAGE))
    assert "\n\none\n\n[Page 2 is an image; its text cannot be read.]\n\n" in await read(data)
    with pytest.raises(InvalidRequestError, match="page 2 cannot all be read") as caught:
        await read(data, scanned_pages="refuse")
    assert (caught.value.param, caught.value.code) == (PARAM, "invalid_file")


async def test_no_more_text_than_the_context_could_hold() -> None:
    text = await read(pdf(*["x" * 50] * 100), max_model_len=20)
    assert text.count("x") == 100  # two pages of 50 reach 20 tokens of 4 characters


def children() -> set[str]:
    """Of every thread of this process; those that end meanwhile have none."""
    found: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update((thread / "children").read_text().split())
    return found


async def hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a reader in place that never ends."""
    start = asyncio.create_subprocess_exec

    async def start_slow(*_: str, **kwargs: object) -> asyncio.subprocess.Process:
        command = (sys.executable, "-c", "import time; time.sleep(60)")
        return await start(*command, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_slow)


async def test_time(monkeypatch: pytest.MonkeyPatch) -> None:
    await hang(monkeypatch)
    before, begin = children(), time.monotonic()
    with pytest.raises(InvalidRequestError, match=r"longer than 0\.3 s"):
        await read(pdf("x"), timeout_s=0.3)
    assert time.monotonic() - begin < 3
    assert children() <= before


async def test_a_request_that_is_cancelled_ends_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    await hang(monkeypatch)
    before = children()
    task = asyncio.create_task(read(pdf("x")))
    for _ in range(200):
        if len(children() - before) == 1:
            break
        await asyncio.sleep(0.02)
    assert len(children() - before) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() <= before


async def test_a_reader_that_dies_is_a_file_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InvalidRequestError, match="could not be read"):
        await read(pdf("x"))


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        (None, "document.pdf"),
        ("", "document.pdf"),
        ("a\nFile: b.pdf\x00", "aFile: b.pdf"),
        ("x" * 300, "x" * 100),
    ],
)
def test_names_stay_on_their_line(filename: str | None, shown: str) -> None:
    file = AttachedFile(0, filename, b"", PARAM)
    assert shown_file(file, "text") == f"File: {shown}\n\ntext"
