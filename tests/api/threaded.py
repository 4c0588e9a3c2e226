"""A real server on the fake model in a thread with a loop of its own, for blocking clients."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nestling.accounts.accounts import Accounts
from nestling.accounts.key_records import NewKey
from nestling.api.app import create_app
from nestling.chat.request import ChatModel
from nestling.server.serving import serve
from nestling.settings import Settings

from .conftest import PRICES, healthy


@dataclass(frozen=True)
class ThreadedServer:
    """Where it listens, and one key of each kind."""

    url: str
    api_key: str
    management_key: str


@contextmanager
def threaded_server(
    chat: ChatModel, data_dir: Path, change: Callable[[Settings], Settings] = lambda s: s
) -> Iterator[ThreadedServer]:
    """Serve until the block ends."""
    settings = change(Settings(data_dir=data_dir, port=0))
    started = threading.Event()
    found: list[ThreadedServer] = []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        accounts = await Accounts.open(data_dir, PRICES)
        _, api_key = await accounts.keys.create(NewKey(name="api"))
        _, management_key = await accounts.keys.create(NewKey(name="m", kind="management"))
        app = create_app(chat, accounts, settings, healthy)

        def on_ready(url: str) -> None:
            found.append(ThreadedServer(url, api_key, management_key))
            started.set()

        try:
            await serve(app, settings, on_ready)
        finally:
            await accounts.close()

    task = loop.create_task(run())

    def main() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=main)
    thread.start()
    try:
        assert started.wait(30)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
        assert not thread.is_alive()
