"""Puts the text of attached PDFs in their places. Each is read by a child process with limits."""

import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nestling.chat.template import AttachedFile, ChatMessage
from nestling.chat.tokenizer import Tokenizer
from nestling.errors import InvalidRequestError
from nestling.log import get_logger

MAX_READERS = 2
"""The most child processes at once. More files wait."""
MAX_NAME_CHARS = 100
ScannedPages = Literal["mark", "refuse"]
_log = get_logger("chat")


@dataclass(frozen=True)
class FileLimits:
    """Limits of one file."""

    max_pages: int = 200
    timeout_s: float = 10.0
    scanned_pages: ScannedPages = "mark"
    """What to do with a file that has both text and pages without: mark those, or refuse it."""


class FileReader:
    """Reads the files of messages. The whole service shares one reader."""

    def __init__(
        self, limits: FileLimits, max_model_len: Callable[[], int], tokenizer: Tokenizer
    ) -> None:
        self._limits = limits
        self._max_model_len = max_model_len
        self._tokenizer = tokenizer
        self._slots = asyncio.Semaphore(MAX_READERS)

    async def read_all(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
        """Return the messages as text. Raises InvalidRequestError naming an unreadable file."""
        return tuple([await self._read_message(message) for message in messages])

    async def _read_message(self, message: ChatMessage) -> ChatMessage:
        if not message.files:
            return message
        pieces, start = [], 0
        for file in message.files:
            pieces += [message.text[start : file.at], shown_file(file, await self._read(file))]
            start = file.at
        pieces.append(message.text[start:])
        text = "\n\n".join(piece for piece in pieces if piece)
        return replace(message, text=text, files=())

    async def _read(self, file: AttachedFile) -> str:
        """Return the file's text."""
        max_chars = self._max_model_len() * self._tokenizer.max_token_chars
        seconds = math.ceil(self._limits.timeout_s)
        numbers = (self._limits.max_pages, max_chars, seconds)
        arguments = [*map(str, numbers), self._limits.scanned_pages]
        try:
            async with self._slots, asyncio.timeout(self._limits.timeout_s):
                answer = await _run_child(file.data, arguments)
        except TimeoutError:
            problem = f"it takes longer than {self._limits.timeout_s:g} s to read"
            raise _unreadable(file, problem) from None
        if "text" in answer:
            return answer["text"]
        raise _unreadable(file, answer["problem"])


async def _run_child(data: bytes, arguments: Sequence[str]) -> dict[str, str]:
    """Return the output of the child process, which is killed if this is cancelled."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "nestling.chat.pdf", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        output, _ = await child.communicate(data)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        answer: dict[str, str] = json.loads(output)
    except ValueError:
        _log.warning("reader of a PDF ended without an answer", exit_code=child.returncode)
        return {"problem": "it could not be read"}
    return answer


def shown_file(file: AttachedFile, text: str) -> str:
    """Return a file as the model sees it: its name on a line, then its text."""
    name = "".join(c for c in file.filename or "" if c.isprintable())[:MAX_NAME_CHARS].strip()
    return f"File: {name or 'document.pdf'}\n\n{text}"


def _unreadable(file: AttachedFile, problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid '{file.param}': expected a PDF with text, but {problem}.",
        param=file.param,
        code="invalid_file",
    )
