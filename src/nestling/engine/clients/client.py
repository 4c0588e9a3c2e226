"""The upper waist: all that the rooms above may ask of an engine, wherever it runs."""

from collections.abc import AsyncGenerator
from typing import Protocol

from nestling.engine.clients.messages import EngineInfo, Stats, Submit, TokenOutput


class EngineClient(Protocol):
    """An engine in this process or in one of its own. All methods run on one asyncio loop."""

    @property
    def info(self) -> EngineInfo:
        """Return what the loaded model can do; valid after `start`."""
        ...

    async def start(self) -> None:
        """Load the model; raises `ModelFileError` or `EngineError` if that fails."""
        ...

    def generate(self, submit: Submit) -> AsyncGenerator[TokenOutput, None]:
        """Yield the request's tokens as they are made; the last item has a `finish_reason`.

        Raises the `NestlingError` that fits if the request is refused or fails. Closing it
        early (`aclose`, cancellation) aborts the request.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a request; its iterator ends with finish_reason "abort". Unknown ids are ignored."""
        ...

    async def health(self) -> Stats:
        """One snapshot; raises `EngineError` if the engine is down or does not answer in time."""
        ...

    async def stop(self) -> None:
        """End the engine and every request with it."""
        ...
