"""Where the label page gets its images and leaves its labels, beside Streamlit's own routes.

A label goes from the browser to the run folder without a rerun of the page: a rerun takes longer
than a person who knows the keys needs for the next image, and what is typed meanwhile would meet
the image before. Every event carries the cell that was on screen and a number; one that is sent
again, because its answer was lost, is acknowledged and not written twice.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from threading import Lock

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dashboard import components
from dashboard.images import crisp
from harness.errors import AuditError
from harness.json_types import JsonObject
from probes.attributes import label_sampling

IMAGE = "/labels/image"
EVENTS = "/labels/events"
SIDES = (512, 1024)
"""Longest sides in px that an image is sent in: beside the classes, and enlarged."""
MOST_BYTES = 200_000
"""Of one request; a hundred events take 20,000."""
CELL = re.compile("[0-9a-f]{64}")

_LOCK = Lock()
_APPLIED: dict[str, int] = {}
"""By browser page: number of its last event that was written."""


def label_routes() -> list[Route]:
    """The routes, for `streamlit.App`."""
    return [
        Route(IMAGE + "/{cell}", image),
        Route(EVENTS, receive, methods=["POST"]),
    ]


def image(request: Request) -> Response:
    """One image of a run as WebP; query: run (its name in the sidebar) and side (px)."""
    cell, side = request.path_params["cell"], request.query_params.get("side", "")
    folder = components.folders().get(request.query_params.get("run", ""))
    if folder is None or not CELL.fullmatch(cell) or side not in map(str, SIDES):
        return Response(status_code=404)
    try:
        png = components.open_view(folder).picture(cell)
    except (AuditError, OSError):
        png = None
    data = crisp(png, int(side)) if png else b""
    if not data:
        return Response(status_code=404)
    return Response(
        data, media_type="image/webp", headers={"cache-control": "private, max-age=600"}
    )


async def receive(request: Request) -> JSONResponse:
    """Write events; JSON of run, attribute, labeller, page and events, see `keep`."""
    body = await request.body()
    if len(body) > MOST_BYTES:
        return _answer(413, "too many labels in one request")
    try:
        told = json.loads(body)
        events = [(int(e["number"]), str(e["cell"]), str(e["outcome"])) for e in told["events"]]
        names = [str(told[k]) for k in ("run", "attribute", "labeller", "page")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return _answer(400, "not a list of labels")
    run, attribute, labeller, page = names
    return await run_in_threadpool(keep, run, attribute, labeller, page, events)


def keep(
    run: str, attribute: str, labeller: str, page: str, events: list[tuple[int, str, str]]
) -> JSONResponse:
    """Write the events of one browser page that were not written before.

    Args:
        run: The run's name in the sidebar.
        attribute: Name of the attribute.
        labeller: Who labels.
        page: The browser page's own random id.
        events: (number, cell, outcome), numbers growing; outcome '' takes a label back.

    Returns:
        Status 200 and the number of the last event that is written; 422 where one is refused
        (nothing is written then); 507 where the disk refused.
    """
    folder = components.folders().get(run)
    if folder is None:
        return _answer(422, f"{run[:70]!r} is not a run that this dashboard shows")
    # One at a time: a request that is sent again must wait for the first to be written.
    with _LOCK:
        new = [(cell, outcome) for n, cell, outcome in events if n > _APPLIED.get(page, 0)]
        try:
            if new:
                label_sampling.add_all(Path(folder), attribute, labeller, new)
        except AuditError as error:
            return _answer(422, str(error))
        except OSError as error:
            return _answer(507, error.strerror or str(error))
        last = max([_APPLIED.get(page, 0), *(n for n, _, _ in events)])
        _APPLIED[page] = last
    return JSONResponse({"written": last})


def _answer(status: int, problem: str) -> JSONResponse:
    content: JsonObject = {"problem": problem}
    return JSONResponse(content, status)
