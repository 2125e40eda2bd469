"""`GET /`: the console, one page with its style and script."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from fastapi import APIRouter, Response

_FILES = {
    "/": ("index.html", "text/html"),
    "/console/console.css": ("console.css", "text/css"),
    "/console/console.js": ("console.js", "text/javascript"),
}
_HEADERS = {
    # Nothing from elsewhere, and nothing inline: what a model says can never run.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router() -> APIRouter:
    """The page's files; they are no part of the API's document."""
    routes = APIRouter()
    for path, (name, media_type) in _FILES.items():
        endpoint = partial(_answer, files("openm3.server").joinpath("console", name).read_bytes(), media_type)
        routes.add_api_route(path, endpoint, name=name, include_in_schema=False, response_class=Response)
    return routes


async def _answer(content: bytes, media_type: str) -> Response:
    return Response(content, headers=_HEADERS, media_type=media_type)
