"""The layers around the routes of a server, whatever the routes answer."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from nestling.server.context import RequestContextMiddleware
from nestling.server.errors import ErrorRenderer
from nestling.server.lifecycle import Lifecycle
from nestling.server.metrics import HttpMetrics
from nestling.server.origins import CorsMiddleware, CorsPolicy, HostMiddleware, PreflightMiddleware
from nestling.settings import Settings


class Application(Starlette):
    """Starlette with our layers only: `RequestContextMiddleware` answers whatever is raised.

    `lifecycle` is what `serve` drains at shutdown. How errors are written and which pages may read
    what is the matter of those whose routes these are.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: HttpMetrics,
        render_error: ErrorRenderer,
        cors: CorsPolicy,
    ) -> None:
        super().__init__(routes=list(routes))
        self.router.redirect_slashes = False
        self.settings = settings
        self.lifecycle = lifecycle
        self.metrics = metrics
        self.render_error = render_error
        self.cors = cors

    def build_middleware_stack(self) -> ASGIApp:
        """Return the layers around the router, the outermost first to be called."""
        inner = PreflightMiddleware(HostMiddleware(self.router, self.settings), self.cors)
        answered = RequestContextMiddleware(inner, self.metrics, self.render_error)
        return CorsMiddleware(answered, self.cors)
