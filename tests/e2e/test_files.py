"""PDFs in a user's message, on the real server: their text is read, what has none is refused."""

import base64
import io
import zlib
from typing import Any

import pypdf
import pytest

from tests.chat.pdfs import pdf
from tests.e2e.conftest import Server


def encrypted() -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb() -> bytes:
    """A page whose content is a few kilobytes and unpacks to hundreds of megabytes."""
    packed = zlib.compress(b"q " * 150_000_000, 9)
    head = pdf("x")
    start = head.index(b"<</Length")
    end = head.rindex(b"endstream")
    packed_object = b"<</Length %d/Filter/FlateDecode>>stream\n%s\n" % (len(packed), packed)
    return head[:start] + packed_object + head[end:]


def ask(server: Server, content: Any) -> Any:
    """Status and body of a short greedy answer."""
    messages = [{"role": "user", "content": content}]
    body = {"model": "google/gemma-3n-e4b-it", "messages": messages, "max_tokens": 8}
    body["temperature"] = 0
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=body)
    return response.status_code, response.json()


def part(data: bytes, lead: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": lead + base64.b64encode(data).decode(), **more}}


def test_the_text_of_a_file_is_read(server: Server) -> None:
    """The same prompt as its text written out: as many tokens, the same answer."""
    text = {"type": "text", "text": "Count."}
    written = "File: a.pdf\n\nFirst page\n\nSecond page\n\nCount."
    data = pdf("First page", "Second page")
    for lead in ("", "data:application/pdf;base64,"):
        status, body = ask(server, [part(data, lead, filename="a.pdf"), text])
        assert status == 201, body
        _, plain = ask(server, written)
        assert body["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    in_lines = {"file_data": base64.encodebytes(data).decode(), "filename": "a.pdf"}
    status, body = ask(server, [{"type": "file", "file": in_lines}, text])
    assert status == 201, body
    assert body["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


REFUSED = {
    "broken": b"%PDF-1.4\nnothing of the kind",
    "cut": pdf("x")[:120],
    "no text": pdf(""),
    "encrypted": encrypted(),
    "too many pages": pdf(*["x"] * 201),
    "bomb": bomb(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_index(server: Server, name: str) -> None:
    """400 that names the part, whatever the bytes are, and the server goes on."""
    text = {"type": "text", "text": "What is it?"}
    status, body = ask(server, [text, part(REFUSED[name])])
    assert status == 400, body
    assert body["error"]["param"] == "messages[0].content[1].file.file_data"
    assert body["error"]["code"] == "invalid_file"
    assert ask(server, "Hello!")[0] == 201
