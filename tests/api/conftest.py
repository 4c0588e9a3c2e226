"""A model that answers at once (or slowly, or not at all) and remembers how each request ended."""

import asyncio
import logging
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from nestling.accounts import api_keys
from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import NewKey
from nestling.accounts.key_text import new_key_text
from nestling.accounts.money import Prices
from nestling.api.app import create_app
from nestling.chat.request import (
    AlternativeToken,
    ChatDelta,
    ChatRequest,
    ChatUsage,
    CompletionRequest,
    TokenLogprob,
)
from nestling.engine.clients.messages import Stats
from nestling.errors import NestlingError
from nestling.log import configure_logging
from nestling.server.application import Application
from nestling.server.serving import serve
from nestling.settings import Settings

KEY_TEXT = new_key_text()
KEY = KEY_TEXT.secret
AUTH = {"Authorization": f"Bearer {KEY}"}
MODEL = "google/gemma-3n-e4b-it"
PRICES = Prices(20, 40)


def chat_body(**fields: Any) -> dict[str, Any]:
    """The smallest body, and more fields."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}


@dataclass
class FakeChat:
    """Answers `pieces`, at most `max_tokens`. `ended` holds "finished" or "aborted" by request."""

    pieces: tuple[str, ...] = ("Hello", " there", " 👋")
    delay_s: float = 0.0
    error: NestlingError | Exception | None = None
    """Raised after `error_after` pieces."""
    error_after: int = 0
    prepare_error: Exception | None = None
    finishes: bool = True
    """False: the stream ends without a finish reason."""
    model_id: str = "nestling-nano"
    aliases: tuple[str, ...] = ("nano",)
    max_model_len: int = 4096
    num_text_tokens: int = 1000
    system_fingerprint: str = "fp_0123456789ab"
    requests: list[ChatRequest | CompletionRequest] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    num_taken: int = 0
    """Pieces that the server has passed on and come back after."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def prepare(self, request: ChatRequest | CompletionRequest) -> "FakePrepared":
        self.requests.append(request)
        if self.prepare_error is not None:
            raise self.prepare_error
        return FakePrepared(self, request)


class FakePrepared:
    num_prompt_tokens = 7

    def __init__(self, chat: FakeChat, request: ChatRequest | CompletionRequest) -> None:
        self._chat = chat
        self._request = request
        num_prompts = len(request.prompts) if isinstance(request, CompletionRequest) else 1
        self.num_choices = request.n * num_prompts
        self.max_completion_tokens = request.sampling.max_tokens * self.num_choices
        self.usage = ChatUsage(prompt_tokens=7, completion_tokens=0, cached_tokens=2)

    async def stream(self) -> AsyncGenerator[ChatDelta, None]:
        chat = self._chat
        pieces = chat.pieces
        try:
            chat.started.set()
            for i, piece in enumerate(islice(pieces, self._request.sampling.max_tokens)):
                self._raise_after(i)
                await asyncio.sleep(chat.delay_s)
                self.usage = ChatUsage(7, (i + 1) * self.num_choices, 2)
                for choice in range(self.num_choices):
                    yield ChatDelta(choice, piece, logprobs=self._logprobs(piece))
                chat.num_taken += 1
            self._raise_after(len(pieces))
            for choice in range(self.num_choices if chat.finishes else 0):
                yield ChatDelta(choice, "", "stop", self._logprobs(None))
            chat.ended.append("finished")
        except (GeneratorExit, asyncio.CancelledError):
            chat.ended.append("aborted")
            raise
        finally:
            chat.has_ended.set()

    def _raise_after(self, index: int) -> None:
        if self._chat.error is not None and index == self._chat.error_after:
            raise self._chat.error

    def _logprobs(self, piece: str | None) -> tuple[TokenLogprob, ...] | None:
        if self._request.sampling.logprobs is None:
            return None
        if piece is None:
            return ()
        token = AlternativeToken(piece, piece.encode(), -0.5)
        low = AlternativeToken("<eos>", None, float("-inf"))
        return (TokenLogprob(token, (token, low)[: self._request.sampling.logprobs]),)


async def healthy() -> Stats:
    """An engine that is well."""
    return Stats(0, *range(1, 14))


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Log as the server does; structlog's own default prints locals and takes seconds for it."""
    handlers = list(logging.getLogger().handlers)
    configure_logging("info", "json")
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


@pytest.fixture
def chat() -> FakeChat:
    return FakeChat()


@pytest.fixture(scope="session")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the key `KEY`, to be copied."""
    path = tmp_path_factory.mktemp("one_key")

    async def fill() -> None:
        accounts = await Accounts.open(path, PRICES)
        await accounts.keys.create(NewKey(name="test"))
        await accounts.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_keys, "new_key_text", lambda: KEY_TEXT)
        asyncio.run(fill())
    return path


@pytest.fixture
async def accounts(one_key: Path, settings: Settings) -> AsyncIterator[Accounts]:
    """Real accounts with one key."""
    shutil.copytree(one_key, settings.data_dir, dirs_exist_ok=True)
    accounts = await Accounts.open(settings.data_dir, PRICES)
    yield accounts
    await accounts.close()


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(data_dir=tmp_path, port=0, header_timeout_s=5, body_timeout_s=5)


@pytest.fixture
def app(chat: FakeChat, accounts: Accounts, settings: Settings) -> Application:
    return create_app(chat, accounts, settings, healthy)


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the app in this process."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@asynccontextmanager
async def running(app: Application, settings: Settings) -> AsyncIterator[str]:
    """Run the real server on a free loopback port; yields its URL."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, settings, ready.set_result))
    try:
        waited: set[asyncio.Future[Any]] = {task, ready}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield await ready
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def url(app: Application, settings: Settings) -> AsyncIterator[str]:
    """The URL of a real server on the fake model."""
    async with running(app, settings) as url:
        yield url
