"""Without the token of the printed address nothing is answered but 403."""

import json
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("streamlit")
pytest.importorskip("websockets")

from dashboard_browser import free_port, served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from benchmarks.synthetic_run import make
from harness.store.run import Run

pytestmark = pytest.mark.faults
STREAM = "_stcore/stream"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("guarded") / "run-a"
    make(folder, seeds=2, prompt_texts=["a cook"])
    return folder


@pytest.fixture(scope="module")
def proxy():
    """A socket that everything which leaves this machine would connect to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        held.setblocking(False)
        yield held


@pytest.fixture(scope="module")
def entry(run, proxy):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        with served(run) as (address, _):
            yield address


@pytest.fixture
def paths(run):
    """A known image, the label route, and Streamlit's own."""
    cell = Run(run).read_plan()["cell"][0]
    return [
        "",
        "label",
        f"labels/image/{cell}?run=run-a&side=512",
        "media/0123456789abcdef.webp",
        "static/js/index.js",
        "favicon.png",
        "component/x/index.html",
        "_stcore/health",
        "_stcore/host-config",
        "_stcore/bidi-components/audit_labeller/index.js",
        "nothing/here",
    ]


def get(entry, path, **headers):
    """Status, headers and body of one address."""
    where = urlsplit(entry)
    connection = HTTPConnection(where.hostname, where.port, timeout=30)
    connection.request(
        "GET", f"/{path}", headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def cookie(entry) -> str:
    _, headers, _ = get(entry, f"?{urlsplit(entry).query}", accept="text/html")
    return headers["set-cookie"].partition(";")[0]


def stream(entry, **headers):
    where = urlsplit(entry)
    more = {"origin": f"http://{where.netloc}"} | headers
    address = f"ws://{where.netloc}/{STREAM}"
    return connect(address, additional_headers=more, subprotocols=["streamlit"], open_timeout=30)


@pytest.mark.parametrize("wrong", [{}, {"cookie": "audit-dashboard-{port}=wrong"}])
def test_every_route_is_refused_without_the_token(entry, paths, wrong):
    wrong = {k: v.format(port=urlsplit(entry).port) for k, v in wrong.items()}
    for path in paths:
        status, headers, body = get(entry, path, **wrong)
        assert status == 403, path
        assert b"audit dashboard" in body
        assert "set-cookie" not in headers
    assert get(entry, "?token=wrong")[0] == 403
    with pytest.raises(InvalidStatus, match="403"), stream(entry, **wrong):
        pass


def test_no_label_is_written_without_the_token(entry, run):
    cell = Run(run).read_plan()["cell"][0]
    event = {"number": 1, "cell": cell, "outcome": "round"}
    told = {
        "run": "run-a",
        "attribute": "look-0",
        "labeller": "eve",
        "page": "p",
        "events": [event],
    }
    where = urlsplit(entry)
    connection = HTTPConnection(where.hostname, where.port, timeout=30)
    connection.request("POST", "/labels/events", json.dumps(told))
    assert connection.getresponse().status == 403
    connection.close()
    assert Run(run).labels().empty


def test_the_first_visit_gives_a_cookie_that_opens_the_rest(entry, paths):
    token = urlsplit(entry).query
    status, headers, body = get(entry, f"label?run=run-a&{token}", accept="text/html")
    assert status == 200
    assert b'url=/label?run=run-a"' in body
    assert token.partition("=")[2].encode() not in body
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    held = cookie(entry)
    assert get(entry, "", cookie=held)[0] == 200
    assert get(entry, paths[2], cookie=held)[2][:4] == b"RIFF"  # a WebP
    assert get(entry, "_stcore/health", cookie=held)[0] == 200
    with stream(entry, cookie=held) as opened:
        assert opened.subprotocol == "streamlit"


def test_other_pages_of_the_same_browser_are_refused(entry, paths):
    held = cookie(entry)
    for origin in ("http://evil.example", "http://127.0.0.1:1", "http://localhost:1", "null"):
        assert get(entry, paths[2], cookie=held, origin=origin)[0] == 403
        with pytest.raises(InvalidStatus, match="403"), stream(entry, cookie=held, origin=origin):
            pass
    for site in ("cross-site", "same-site"):
        assert get(entry, paths[2], cookie=held, sec_fetch_site=site)[0] == 403
    for site in ("none", "same-origin"):
        assert get(entry, paths[2], cookie=held, sec_fetch_site=site)[0] == 200


def test_no_other_page_frames_it(entry):
    for headers in ({}, {"cookie": cookie(entry)}):
        _, answer, _ = get(entry, "", **headers)
        assert "frame-ancestors 'none'" in answer["content-security-policy"]
        assert answer["x-frame-options"] == "DENY"


def test_a_refused_origin_makes_no_look_up_of_the_external_address(entry, proxy):
    """Streamlit would ask a host on the internet for this machine's address, here by the proxy."""
    with (
        pytest.raises(InvalidStatus, match="403"),
        stream(entry, cookie=cookie(entry), origin="http://evil.example"),
    ):
        pass
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_a_port_in_use_is_one_line_at_once(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "audit.commands.main", "dashboard", str(run), "--port", port],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 2
    assert result.stdout == ""
    assert f"--port {port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_token_differs_at_each_start_and_is_printed_once(run):
    command = [
        sys.executable,
        "-m",
        "audit.commands.main",
        "dashboard",
        str(run),
        "--port",
        str(free_port()),
    ]
    tokens = []
    for _ in range(2):
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        tokens.append(server.stdout.readline().strip().partition("token=")[2])
        server.terminate()
        told = "".join(server.communicate(timeout=60))
        assert tokens[-1] not in told
    assert len(tokens[0]) >= 40
    assert tokens[0] != tokens[1]
