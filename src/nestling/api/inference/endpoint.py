"""One inference request from body to answer, whatever its format: JSON or a stream of SSE frames.

Whatever can be known before the first byte is a real status: the body is validated, the prompt
tokenized, the cost reserved, and the engine gets a moment to refuse before the head of a stream
goes out. Afterwards an error is a last frame. A client that goes away ends its generation, streamed
or not, and so does a key that stops being good.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.key_records import ApiKey
from nestling.accounts.ledger_records import Inference
from nestling.api.answers import Answer
from nestling.api.auth import INFERENCE_SCOPE, Access, Gate, route
from nestling.api.errors import error_frame
from nestling.api.inference.metering import Caller, MeteredReply, cost_headers, metered, take
from nestling.api.inference.replies import (
    DONE_FRAME,
    Collector,
    FrameEncoder,
    ReplyIdentity,
    new_identity,
)
from nestling.api.inference.services import Services
from nestling.api.inference.sse import SseStream, with_early_refusal
from nestling.api.operations import Endpoint, Operation
from nestling.api.requests.chat import InferenceBody
from nestling.api.requests.json_body import LARGE_BYTES, parse_json_object
from nestling.chat.fields import Schema
from nestling.chat.request import ChatDelta, PreparedGeneration
from nestling.errors import EngineError, NestlingError, ServerShutdownError
from nestling.log import get_logger
from nestling.server.answers import send_body
from nestling.server.context import RequestContext, request_context
from nestling.server.errors import http_error
from nestling.server.lifecycle import ClientDisconnectedError
from nestling.server.request_body import read_json_body

MAX_LOGGED_NAMES = 256
"""Unknown fields are logged once per name, and no more names than this."""
_HEADERS = {
    "x-request-id": "This request",
    "x-inference-id": "The reply's id",
    "x-ratelimit-remaining-requests": "What is left of the key's minute",
    "x-ratelimit-remaining-tokens": "What is left of the key's minute",
}
_log = get_logger("api")


class Format(Protocol):
    """One endpoint's wire format."""

    path: str
    summary: str
    answer: type[Answer]
    """The whole reply."""

    def schema(self) -> Schema:
        """Return what `read` takes, as JSON Schema."""
        ...

    def read(self, raw: Mapping[str, Any]) -> InferenceBody:
        """Validate a body; raises `InvalidRequestError`."""
        ...

    def collector(
        self, identity: ReplyIdentity, body: InferenceBody, num_choices: int
    ) -> Collector:
        """Return what builds the whole answer."""
        ...

    def encoder(self, identity: ReplyIdentity, body: InferenceBody) -> FrameEncoder:
        """Return what builds the frames."""
        ...


class InferenceEndpoint:
    """The ASGI endpoint of one format; one for the whole app."""

    def __init__(self, services: Services, wire_format: Format) -> None:
        self._services = services
        self._format = wire_format
        self._logged_names: set[str] = set()

    def routes(self, gate: Gate) -> Sequence[Route]:
        """Return its routes: clients are configured with either base URL."""
        operation = Operation(
            self._format.summary,
            self._format.answer,
            status=self._services.settings.success_status,
            body=self._format.schema,
            errors=(413, 415, 429),
            answer_types=("application/json", "text/event-stream"),
            headers=_HEADERS,
        )
        path, endpoint = self._format.path, {"POST": Endpoint(self, operation)}
        bases = (path, path.removeprefix("/v1"))
        return [route(base, endpoint, Access.INFERENCE, gate) for base in bases]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        services = self._services
        if services.lifecycle.is_draining:
            raise ServerShutdownError("the server is shutting down")
        context, key = request_context(scope), scope["state"]["api_key"]
        take(services.requests, "requests", 1, key, context)
        content = await read_json_body(scope, receive, services.settings)
        if len(content) < LARGE_BYTES:
            body = self._read(content)
        else:
            body = await asyncio.to_thread(self._read, content)
        self._log_unknown(body.unknown)
        identity = new_identity(services.chat)
        context.inference_id = identity.id
        caller = Caller(key, context, self._inference(key, context, identity, body))
        run = _Run(services, self._format, body, identity, caller)
        with services.accounts.watch.watch(key, INFERENCE_SCOPE) as stop:
            if body.stream:
                await run.answer_stream(receive, send, stop)
            else:
                await run.answer_whole(receive, send, stop)

    def _read(self, content: bytes) -> InferenceBody:
        return self._format.read(parse_json_object(content))

    def _inference(
        self, key: ApiKey, context: RequestContext, identity: ReplyIdentity, body: InferenceBody
    ) -> Inference:
        return Inference(
            inference_id=identity.id,
            request_id=context.request_id,
            client_request_id=context.client_request_id,
            key_id=key.key_id,
            key_prefix=key.prefix,
            endpoint=self._format.path,
            model=identity.model,
            origin="api",
            is_streamed=body.stream,
            started_at=datetime.now(UTC),
        )

    def _log_unknown(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._logged_names and len(self._logged_names) < MAX_LOGGED_NAMES:
                self._logged_names.add(name)
                _log.warning("unknown field ignored", field=ascii(name[:100])[1:-1])


@dataclass(frozen=True, slots=True)
class _Run:
    """One request whose body is valid."""

    services: Services
    format: Format
    body: InferenceBody
    identity: ReplyIdentity
    caller: Caller

    async def _prepare(self) -> PreparedGeneration:
        """The request as the model takes it; cached prompts serve the key that sent them alone."""
        request = replace(self.body.request, cache_salt=self.caller.key.key_id)
        return await self.services.chat.prepare(request)

    async def answer_whole(
        self, receive: Receive, send: Send, stop: asyncio.Future[NestlingError]
    ) -> None:
        """Answer with one JSON object."""
        content, nano_usd = await self.services.lifecycle.run(self._complete(), receive, stop)
        status = self.services.settings.success_status
        await send_body(send, status, content, cost_headers(nano_usd))

    async def _complete(self) -> tuple[bytes, int]:
        """Return the finished reply and its cost in nano-USD."""
        prepared = await self._prepare()
        collector = self.format.collector(self.identity, self.body, prepared.num_choices)
        async with metered(self.services, self.caller, prepared) as reply:
            async with aclosing(prepared.stream()) as deltas:
                async for delta in deltas:
                    reply.saw_delta()
                    collector.add(delta)
            nano_usd = reply.cost()
            return collector.body(prepared.usage, nano_usd), nano_usd

    async def answer_stream(
        self, receive: Receive, send: Send, stop: asyncio.Future[NestlingError]
    ) -> None:
        """Stream; errors after the head has gone out become the last frame."""
        stream = SseStream(send, self.services.settings)
        try:
            await self.services.lifecycle.run(self._stream(stream), receive, stop)
        except ClientDisconnectedError:
            raise
        except Exception as error:
            if not stream.is_open:
                raise
            if not isinstance(error, NestlingError):
                _log.error("stream failed", inference_id=self.identity.id, exc_info=error)
            await stream.end(error_frame(http_error(error)))

    async def _stream(self, stream: SseStream) -> None:
        prepared = await self._prepare()
        encoder = self.format.encoder(self.identity, self.body)
        async with metered(self.services, self.caller, prepared) as reply:
            async with aclosing(with_early_refusal(prepared)) as deltas:
                await anext(deltas)
                await stream.open(encoder.opening(prepared.num_choices))
                try:
                    await _send_deltas(deltas, encoder, stream, reply, prepared.num_choices)
                finally:
                    await stream.stop_keep_alive()
            nano_usd = reply.cost()
        last = encoder.usage(prepared.usage, nano_usd) if self.body.include_usage else b""
        await stream.end(last + DONE_FRAME)


async def _send_deltas(
    deltas: AsyncGenerator[ChatDelta | None, None],
    encoder: FrameEncoder,
    stream: SseStream,
    reply: MeteredReply,
    num_choices: int,
) -> None:
    num_ended = 0
    async for delta in deltas:
        if delta is None:
            continue
        reply.saw_delta()
        num_ended += delta.finish_reason is not None
        frames = encoder.delta(delta)
        if frames:
            await stream.send(frames)
    if num_ended != num_choices:
        raise EngineError(f"the stream ended with {num_ended} of {num_choices} choices finished")
