"""Puts the HTTP side together: routes with their access classes, and the layers around them."""

from dataclasses import replace

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.rate_limits import RateLimiter
from nestling.api.account.billing import BillingEndpoint
from nestling.api.account.keys import KeysEndpoint
from nestling.api.account.usage import UsageEndpoint
from nestling.api.answers import Status
from nestling.api.auth import Access, Gate, GuardedEndpoint, route
from nestling.api.errors import error_body
from nestling.api.inference.chat import ChatFormat, model_names
from nestling.api.inference.completions import CompletionFormat
from nestling.api.inference.endpoint import InferenceEndpoint
from nestling.api.inference.latency import LatencyWindow
from nestling.api.inference.services import Services
from nestling.api.metrics import Health, Metrics
from nestling.api.models import ModelsEndpoint
from nestling.api.openapi.document import OpenApiEndpoint
from nestling.api.operations import Endpoint, Operation
from nestling.chat.request import ChatModel
from nestling.errors import EngineError, ServerShutdownError
from nestling.server.answers import send_body
from nestling.server.application import Application
from nestling.server.context import send_error
from nestling.server.errors import http_error
from nestling.server.lifecycle import Lifecycle
from nestling.server.origins import CorsPolicy, is_loopback
from nestling.settings import Settings

_OK = msgspec.json.encode(Status("ok"))


def create_app(
    chat: ChatModel, accounts: Accounts, settings: Settings, health: Health
) -> Application:
    """Return the app, ready for `server.serving.serve`."""
    services = Services(
        chat=chat,
        accounts=accounts,
        settings=settings,
        lifecycle=Lifecycle(),
        requests=RateLimiter(settings.requests_per_minute),
        tokens=RateLimiter(settings.tokens_per_minute),
        metrics=Metrics(chat, health),
        latency=LatencyWindow(model_names(chat)),
    )
    routes = _routes(services, health)
    guards = [r.endpoint for r in routes if isinstance(r.endpoint, GuardedEndpoint)]
    closed = frozenset(guard.path for guard in guards if guard.access is Access.OPERATOR)
    app = Application(
        routes,
        settings,
        services.lifecycle,
        services.metrics.http,
        error_body,
        CorsPolicy(frozenset(settings.cors_origins), closed),
    )
    app.state.services = services
    return app


def _routes(services: Services, health: Health) -> list[Route]:
    """Return all routes; of two that match, the first answers."""
    settings, chat, accounts = services.settings, services.chat, services.accounts
    gate = Gate(accounts.keys, is_local=is_loopback(settings.host))
    routes = [
        services.latency.route(gate),
        *InferenceEndpoint(services, ChatFormat(chat, settings)).routes(gate),
        *InferenceEndpoint(services, CompletionFormat(chat)).routes(gate),
        *ModelsEndpoint(chat, settings).routes(gate),
        *KeysEndpoint(accounts, settings).routes(gate),
        *UsageEndpoint(accounts, chat).routes(gate),
        *BillingEndpoint(accounts).routes(gate),
        services.metrics.route(gate),
        OpenApiEndpoint(settings, lambda: routes).route(gate),
        *_probes(services.lifecycle, health, gate),
    ]
    return routes


def _probes(lifecycle: Lifecycle, health: Health, gate: Gate) -> list[Route]:
    async def livez(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send_body(send, 200, _OK)

    async def readyz(scope: Scope, _receive: Receive, send: Send) -> None:
        if lifecycle.is_draining:
            raise ServerShutdownError("the server is shutting down")
        try:
            await health()
        except EngineError as error:
            reason = f"Not ready: {error.message}."
            await send_error(scope, send, replace(http_error(error), status=503, message=reason))
        else:
            await send_body(send, 200, _OK)

    is_alive = Endpoint(livez, Operation("Whether the server runs", Status))
    is_ready = Endpoint(readyz, Operation("Whether the engine is well", Status))
    return [
        route("/livez", {"GET": is_alive}, Access.PUBLIC, gate),
        route("/readyz", {"GET": is_ready}, Access.PUBLIC, gate),
    ]
