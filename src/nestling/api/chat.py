"""POST /v1/chat/completions: body in, one JSON object or a stream of SSE frames out.

Whatever can be known before the first byte is a real status: the body is validated, the prompt
tokenized, and the engine gets a moment to refuse before the head of a stream goes out. Afterwards
an error is a last frame. A client that goes away ends its generation, streamed or not.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.types import Receive, Scope, Send

from nestling.api.bodies import (
    DONE_FRAME,
    KEEP_ALIVE_COMMENT,
    ChunkEncoder,
    Completion,
    ReplyIdentity,
    new_identity,
)
from nestling.api.context import request_context, send_body
from nestling.api.errors import error_frame, http_error
from nestling.api.json_body import parse_json_object
from nestling.api.lifecycle import ClientDisconnectedError, Lifecycle
from nestling.api.request_body import read_json_body
from nestling.api.schemas import DOCUMENTED_MODEL, ChatBody, read_chat_body
from nestling.chat.request import ChatDelta, ChatModel, PreparedChat
from nestling.errors import EngineError, NestlingError, ServerShutdownError
from nestling.log import get_logger
from nestling.settings import Settings

REFUSAL_WINDOW_S = 0.1
"""How long the head of a stream waits for the first delta or a refusal of the engine."""
MAX_LOGGED_NAMES = 256
"""Unknown fields are logged once per name, and no more names than this."""

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]
_log = get_logger("api")


def model_names(chat: ChatModel) -> tuple[str, ...]:
    """Return the names a request may give in `model`, the documented one first."""
    return tuple(dict.fromkeys((DOCUMENTED_MODEL, chat.model_id, *chat.aliases)))


class ChatEndpoint:
    """The ASGI endpoint; one for the whole app."""

    def __init__(self, chat: ChatModel, settings: Settings, lifecycle: Lifecycle) -> None:
        self._chat = chat
        self._settings = settings
        self._lifecycle = lifecycle
        self._logged_names: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._lifecycle.is_draining:
            raise ServerShutdownError("the server is shutting down")
        raw = parse_json_object(await read_json_body(scope, receive, self._settings))
        body = read_chat_body(raw, model_names(self._chat))
        self._log_unknown(body.unknown)
        identity = new_identity(self._chat)
        request_context(scope).inference_id = identity.id
        if body.stream:
            await self._answer_stream(body, identity, receive, send)
        else:
            await self._answer_whole(body, identity, receive, send)

    async def _answer_whole(
        self, body: ChatBody, identity: ReplyIdentity, receive: Receive, send: Send
    ) -> None:
        content = await self._lifecycle.run(self._complete(body, identity), receive)
        await send_body(send, self._settings.success_status, content)

    async def _complete(self, body: ChatBody, identity: ReplyIdentity) -> bytes:
        """Return the finished `chat.completion`."""
        prepared = await self._chat.prepare(body.request)
        reply = Completion(identity, body.request.n, logprobs=body.request.logprobs)
        async with aclosing(prepared.stream()) as deltas:
            async for delta in deltas:
                reply.add(delta)
        return reply.body(prepared.usage)

    async def _answer_stream(
        self, body: ChatBody, identity: ReplyIdentity, receive: Receive, send: Send
    ) -> None:
        """Stream; errors after the head has gone out become the last frame."""
        stream = _SseStream(send, self._settings)
        work = self._stream(body, identity, stream)
        try:
            await self._lifecycle.run(work, receive)
        except ClientDisconnectedError:
            raise
        except Exception as error:
            if not stream.is_open:
                raise
            if not isinstance(error, NestlingError):
                _log.error("stream failed", inference_id=identity.id, exc_info=error)
            await stream.end(error_frame(http_error(error)))

    async def _stream(self, body: ChatBody, identity: ReplyIdentity, stream: "_SseStream") -> None:
        prepared = await self._chat.prepare(body.request)
        encoder = ChunkEncoder(identity, include_usage=body.include_usage)
        async with aclosing(_with_early_refusal(prepared)) as deltas:
            await anext(deltas)
            await stream.open(b"".join(encoder.role(i) for i in range(body.request.n)))
            try:
                await _send_deltas(deltas, encoder, stream, body.request.n)
            finally:
                await stream.stop_keep_alive()
        last = encoder.usage(prepared.usage) if body.include_usage else b""
        await stream.end(last + DONE_FRAME)

    def _log_unknown(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._logged_names and len(self._logged_names) < MAX_LOGGED_NAMES:
                self._logged_names.add(name)
                _log.warning("unknown field ignored", field=ascii(name[:100])[1:-1])


async def _send_deltas(
    deltas: AsyncGenerator[ChatDelta | None, None],
    encoder: ChunkEncoder,
    stream: "_SseStream",
    num_choices: int,
) -> None:
    num_ended = 0
    async for delta in deltas:
        if delta is None:
            continue
        num_ended += delta.finish_reason is not None
        frames = encoder.delta(delta)
        if frames:
            await stream.send(frames)
    if num_ended != num_choices:
        raise EngineError(f"the stream ended with {num_ended} of {num_choices} choices finished")


async def _with_early_refusal(prepared: PreparedChat) -> AsyncGenerator[ChatDelta | None, None]:
    """Yield None as soon as the head may go out, then the deltas.

    That is when the first delta is there or `REFUSAL_WINDOW_S` has passed; an error within the
    window is raised instead.
    """
    async with aclosing(prepared.stream()) as deltas:
        first = asyncio.ensure_future(anext(deltas, None))
        try:
            await asyncio.wait({first}, timeout=REFUSAL_WINDOW_S)
            if first.done():
                first.result()
            yield None
            delta = await first
        finally:
            first.cancel()
            await asyncio.wait({first})
        if delta is not None:
            yield delta
            async for delta in deltas:
                yield delta


class _SseStream:
    """The frames of one reply on their way out, with a comment whenever they pause for long."""

    def __init__(self, send: Send, settings: Settings) -> None:
        self.is_open = False
        self._send = send
        self._status = settings.success_status
        self._interval_s = settings.keep_alive_interval_s
        self._last_sent_at = 0.0
        self._keep_alive: asyncio.Task[None] | None = None

    async def open(self, frames: bytes) -> None:
        """Send the head and the first frames."""
        self.is_open = True
        start = {"type": "http.response.start", "status": self._status, "headers": [*_SSE_HEADERS]}
        await self._send(start)
        await self.send(frames)
        self._keep_alive = asyncio.create_task(self._keep_alive_loop())

    async def send(self, frames: bytes) -> None:
        """Send whole frames; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        self._last_sent_at = time.monotonic()

    async def end(self, frames: bytes) -> None:
        """Send the last frames and close the body."""
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    async def stop_keep_alive(self) -> None:
        """Send no more comments."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            with suppress(asyncio.CancelledError):
                await self._keep_alive

    async def _keep_alive_loop(self) -> None:
        while True:
            silence_s = time.monotonic() - self._last_sent_at
            if silence_s >= self._interval_s:
                await self.send(KEEP_ALIVE_COMMENT)
            else:
                await asyncio.sleep(self._interval_s - silence_s)
