"""Puts the HTTP side together: routes with their access classes, and the layers around them."""

from collections.abc import Mapping
from dataclasses import replace

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nestling.accounts.accounts import Accounts
from nestling.accounts.rate_limits import RateLimiter
from nestling.api.account.billing import BillingEndpoint
from nestling.api.account.keys import KeysEndpoint
from nestling.api.account.usage import UsageEndpoint
from nestling.api.auth import Access, Gate, GuardedEndpoint, Handler, route
from nestling.api.errors import error_body
from nestling.api.inference.chat import ChatFormat, model_names
from nestling.api.inference.completions import CompletionFormat
from nestling.api.inference.endpoint import InferenceEndpoint
from nestling.api.inference.latency import LatencyWindow
from nestling.api.inference.services import Services
from nestling.api.metrics import Health, Metrics
from nestling.api.models import ModelsEndpoint
from nestling.api.openapi.document import OpenApiEndpoint
from nestling.chat.request import ChatModel
from nestling.errors import EngineError, ServerShutdownError
from nestling.server.answers import send_body
from nestling.server.application import Application
from nestling.server.context import send_error
from nestling.server.errors import http_error
from nestling.server.lifecycle import Lifecycle
from nestling.server.origins import CorsPolicy, is_loopback
from nestling.settings import Settings

_OK = b'{"status":"ok"}'


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
    gate = Gate(services.accounts.keys, is_local=is_loopback(services.settings.host))
    chat = InferenceEndpoint(services, ChatFormat(services.chat, services.settings))
    completions = InferenceEndpoint(services, CompletionFormat(services.chat))
    models = ModelsEndpoint(services.chat, services.settings)

    keys = KeysEndpoint(services.accounts, services.settings)
    usage = UsageEndpoint(services.accounts, services.chat)
    billing = BillingEndpoint(services.accounts)

    def at(path: str, handlers: Mapping[str, Handler], access: Access) -> Route:
        return route(path, handlers, access, gate)

    one_key = {
        "GET": keys.one,
        "PATCH": keys.change,
        "PUT": keys.change,
        "DELETE": keys.delete,
    }
    both = [  # clients are configured with either base URL
        at(f"{base}{path}", handlers, access)
        for path, handlers, access in (
            ("/chat/completions", {"POST": chat}, Access.INFERENCE),
            ("/completions", {"POST": completions}, Access.INFERENCE),
            ("/models", {"GET": models.list}, Access.PUBLIC),
            ("/models/{model_id:path}", {"GET": models.one}, Access.PUBLIC),
        )
        for base in ("/v1", "")
    ]
    openapi = OpenApiEndpoint(services, lambda: routes)
    routes = [
        at("/models/metrics", {"GET": services.latency.endpoint}, Access.PUBLIC),
        *both,
        at("/v1/key", {"GET": keys.mine}, Access.ANY_KEY),
        at("/v1/keys", {"GET": keys.list, "POST": keys.create}, Access.MANAGEMENT),
        at("/v1/keys/{prefix}", one_key, Access.MANAGEMENT),
        at("/v2/usage", {"GET": usage.totals}, Access.ANY_KEY),
        at("/v2/usage/detail", {"GET": usage.detail}, Access.ANY_KEY),
        at("/v2/logs", {"GET": usage.logs}, Access.ANY_KEY),
        at("/v1/billing/balance", {"GET": billing.balance}, Access.ANY_KEY),
        at("/v2/billing", {"GET": billing.current}, Access.ANY_KEY),
        at("/v2/billing/detail", {"GET": billing.detail}, Access.ANY_KEY),
        at("/v2/billing/transactions", {"GET": billing.transactions}, Access.ANY_KEY),
        at("/api/v1/models", {"GET": models.list}, Access.PUBLIC),
        at("/model/{model_id:path}", {"GET": models.wrapped}, Access.PUBLIC),
        at("/metrics", {"GET": services.metrics.endpoint}, Access.OPERATOR),
        at("/openapi.json", {"GET": openapi.endpoint}, Access.OPERATOR),
        at("/livez", {"GET": _livez}, Access.PUBLIC),
        at("/readyz", {"GET": _readyz(services.lifecycle, health)}, Access.PUBLIC),
    ]
    return routes


async def _livez(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_body(send, 200, _OK)


def _readyz(lifecycle: Lifecycle, health: Health) -> Handler:
    async def readyz(scope: Scope, _receive: Receive, send: Send) -> None:
        if lifecycle.is_draining:
            raise ServerShutdownError("the server is shutting down")
        try:
            await health()
        except EngineError as error:
            await send_error(scope, send, replace(http_error(error), status=503))
        else:
            await send_body(send, 200, _OK)

    return readyz
