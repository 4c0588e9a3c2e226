"""The layers around the routes of a server, whatever the routes answer."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from nestling.server.context import RequestContextMiddleware
from nestling.server.errors import ErrorRenderer
from nestling.server.lifecycle import Lifecycle
from nestling.server.metrics import HttpMetrics
from nestling.server.origins import CorsMiddleware, HostMiddleware, PreflightMiddleware
from nestling.settings import Settings


class Application(Starlette):
    """Starlette with our layers only: `RequestContextMiddleware` answers whatever is raised.

    `lifecycle` is what `serve` drains at shutdown.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: HttpMetrics,
        render_error: ErrorRenderer,
    ) -> None:
        super().__init__(routes=list(routes))
        self.router.redirect_slashes = False
        self.settings = settings
        self.lifecycle = lifecycle
        self.metrics = metrics
        self.render_error = render_error

    def build_middleware_stack(self) -> ASGIApp:
        """Return the layers around the router, the outermost first to be called."""
        settings = self.settings
        inner = PreflightMiddleware(HostMiddleware(self.router, settings), settings)
        answered = RequestContextMiddleware(inner, self.metrics, self.render_error)
        return CorsMiddleware(answered, settings)
