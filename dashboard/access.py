"""Who may see the dashboard: whoever has the token that `audit dashboard` prints.

127.0.0.1 keeps other machines out, not other users of this one, nor pages that are open in the
same browser. So each start has a random token, as Jupyter's has: the printed address carries it,
the first visit turns it into a cookie, and everything else is answered with 403, images, the
websocket and Streamlit's own files included.

Cookies do not know ports: a page on another port of this host counts as the same site. Requests
that another page caused are therefore refused by their `Origin` and `Sec-Fetch-Site`, before
Streamlit would look up this machine's external address to compare it with.
"""

from __future__ import annotations

import secrets
from html import escape
from urllib.parse import quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harness.json_types import JsonObject

REFUSED = "403: open the address that `audit dashboard` printed; its token changes at each start\n"
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline' blob:; base-uri 'self'; form-action 'self'; "
    "object-src 'none'; frame-ancestors 'none'"
)
"""Streamlit and Vega need inline scripts and `eval`; what matters is that nothing comes from, or
goes to, another host, and that no other page frames this one."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Of every response."""


def new_token() -> str:
    """A token that cannot be guessed: 32 random bytes as text for an address."""
    return secrets.token_urlsafe(32)


class TokenGate:
    """ASGI middleware around a whole application: 403 without the token.

    Args:
        app: Application to protect.
        token: What the address must carry as `token` at the first visit.
        port: Port that the server listens on; names the cookie, so that two dashboards on one
            host do not overwrite each other's.
    """

    def __init__(self, app: ASGIApp, token: str, port: int):
        self.app = app
        self.token = token
        self.cookie = f"audit-dashboard-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or pass a request on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        entering = self._matches(request.query_params.get("token", ""))
        admitted = entering or self._matches(request.cookies.get(self.cookie, ""))
        if not admitted or not _own(request, entering):
            await _refuse(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if entering:
                    headers.append("set-cookie", self._set_cookie())
            await send(message)

        wants_page = "text/html" in request.headers.get("accept", "")
        if entering and scope["type"] == "http" and wants_page:
            await HTMLResponse(_forward(request))(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _set_cookie(self) -> str:
        return f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"


def _own(request: HTTPConnection, entering: bool) -> bool:
    """Whether a request comes from the dashboard's own page, the address bar, or no browser."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        return False
    # 'none' is the address bar; a link in another page may carry the token, as an address.
    return entering or request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _forward(request: HTTPConnection) -> str:
    """A page that goes on to the same address without the token.

    No redirect: after one, a browser that came from another site (a link in a chat) would not
    send a cookie of SameSite=Strict along.
    """
    kept = [(k, v) for k, v in request.query_params.multi_items() if k != "token"]
    path = "/" + quote(request.url.path.lstrip("/"))
    target = escape(f"{path}?{urlencode(kept)}" if kept else path, quote=True)
    return f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><title>…</title>'


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 403; of a websocket before it opens."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers: JsonObject = HEADERS | {"cache-control": "no-store"}
    await PlainTextResponse(REFUSED, 403, headers)(scope, receive, send)
