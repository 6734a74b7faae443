"""The agent's one HTTP listener: it is opened by its first user, hands each request to the owner of its route, and ends last.

    closed --open()--> open --close()--> closed for good
A failed `open` leaves it closed, so the next user may try again. Knows nothing of functions: a target is an ASGI-like Handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from edgehost.config import Http
from edgehost.errors import TriggerError
from edgehost.http.address import bind, spell
from edgehost.http.asgi import Handler, Receive, Scope, Send, reply
from edgehost.http.bodies import Bodies
from edgehost.http.routes import Route, RouteTable

if TYPE_CHECKING:
    from edgehost.http.server import EmbeddedServer


class Listener:
    """Made through `host.shared("http", ...)`. `address` is the real one (`127.0.0.1:43567`, `unix:/path`); empty: closed."""

    def __init__(self, config: Http) -> None:
        self.address = ""
        self.bodies = Bodies()
        self._config = config
        self._routes: RouteTable[Handler] = RouteTable()
        self._server: EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Bind and begin to serve, unless that has been done. Raises TriggerError with what to do. Needs a running loop."""
        if self._serving is not None:
            return
        try:
            from edgehost.http.server import EmbeddedServer
        except ImportError as error:
            raise TriggerError(f"HTTP needs uvicorn ({error}); pip install 'edgehost[http]'") from error
        sock = bind(self._config.listen)
        self.address = spell(sock, self._config.listen)
        self._server = EmbeddedServer(self, self._config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[sock]), name="http listener")

    def claim(self, routes: Sequence[Route], handler: Handler, owner: str) -> None:
        """Send the requests of `routes` to `handler`. All or nothing; TriggerError names both owners of a route claimed twice."""
        try:
            for route in routes:
                self._routes.add(route, handler, owner)
        except TriggerError:
            self._routes.remove(owner)
            raise

    @property
    def url(self) -> str:
        """The address as people type it: http://127.0.0.1:8080, or unix:/path as it is."""
        return self.address if self.address.startswith("unix:") else f"http://{self.address}"

    def release(self, owner: str) -> None:
        """Give up every route of `owner`: new requests there get 404."""
        self._routes.remove(owner)

    def routes(self) -> list[tuple[str, str]]:
        """Each route with its owner, for people."""
        return self._routes.listing()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application. Not async itself: one frame less for every request."""
        found = self._routes.find(scope["path"])
        if found is None:
            return reply(send, 404, f"no function answers at {scope['path']}")
        handler, prefix = found
        return handler(scope, receive, send, prefix)

    async def close(self) -> None:
        """Close the socket, let what is being answered finish for a few seconds, end."""
        server, serving = self._server, self._serving
        self.address = ""
        if server is None or serving is None:
            return
        server.leave()
        await serving
