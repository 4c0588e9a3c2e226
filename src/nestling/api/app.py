"""Puts the HTTP side together: routes with their access classes, and the layers around them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.rate_limits import RateLimiter
from nestling.api.auth import Access, Gate, Handler, route
from nestling.api.chat import ChatFormat
from nestling.api.completions import CompletionFormat
from nestling.api.context import RequestContextMiddleware, send_body, send_error
from nestling.api.errors import http_error
from nestling.api.inference import InferenceEndpoint
from nestling.api.lifecycle import Lifecycle
from nestling.api.models import ModelsEndpoint
from nestling.api.origins import CorsMiddleware, HostMiddleware, is_loopback
from nestling.api.services import Services
from nestling.chat.request import ChatModel
from nestling.errors import EngineError, ServerShutdownError
from nestling.settings import Settings

Health = Callable[[], Awaitable[object]]
"""Returns if the engine is well; raises the `NestlingError` that fits if not."""

_OK = b'{"status":"ok"}'


def create_app(
    chat: ChatModel, accounts: Accounts, settings: Settings, health: Health
) -> Starlette:
    """Return the app; `app.state.lifecycle` is what `serve` drains at shutdown."""
    services = Services(
        chat=chat,
        accounts=accounts,
        settings=settings,
        lifecycle=Lifecycle(),
        requests=RateLimiter(settings.requests_per_minute),
        tokens=RateLimiter(settings.tokens_per_minute),
    )
    app = Starlette(
        routes=_routes(services, health),
        middleware=[
            Middleware(CorsMiddleware, settings),
            Middleware(RequestContextMiddleware),
            Middleware(HostMiddleware, settings),
        ],
        exception_handlers={HTTPException: _on_http_exception},  # type: ignore[dict-item]
    )
    app.router.redirect_slashes = False
    app.state.lifecycle = services.lifecycle
    return app


def _routes(services: Services, health: Health) -> list[Route]:
    gate = Gate(services.accounts.keys, is_local=is_loopback(services.settings.host))
    chat = InferenceEndpoint(services, ChatFormat(services.chat, services.settings))
    completions = InferenceEndpoint(services, CompletionFormat(services.chat))
    models = ModelsEndpoint(services.chat)

    def at(path: str, method: str, handler: Handler, access: Access) -> list[Route]:
        """With and without /v1: clients are configured with either base URL."""
        return [route(p, method, handler, access, gate) for p in (f"/v1{path}", path)]

    return [
        *at("/chat/completions", "POST", chat, Access.INFERENCE),
        *at("/completions", "POST", completions, Access.INFERENCE),
        *at("/models", "GET", models.list, Access.PUBLIC),
        *at("/models/{model_id:path}", "GET", models.one, Access.PUBLIC),
        route("/livez", "GET", _livez, Access.PUBLIC, gate),
        route("/readyz", "GET", _readyz(services.lifecycle, health), Access.PUBLIC, gate),
    ]


async def _livez(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_body(send, 200, _OK, {"cache-control": "no-store"})


def _readyz(lifecycle: Lifecycle, health: Health) -> Handler:
    async def readyz(scope: Scope, _receive: Receive, send: Send) -> None:
        if lifecycle.is_draining:
            raise ServerShutdownError("the server is shutting down")
        try:
            await health()
        except EngineError as error:
            await send_error(scope, send, replace(http_error(error), status=503))
        else:
            await send_body(send, 200, _OK, {"cache-control": "no-store"})

    return readyz


def _on_http_exception(_request: Request, error: HTTPException) -> ASGIApp:
    """Answer the framework's own refusals (404, 405, ...) like all others."""

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_error(scope, send, http_error(error))

    return answer
