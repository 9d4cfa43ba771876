"""A server that speaks the contract by script, and `taskman` as a real process."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

RUN = {
    "id": "r0-1",
    "task": "nightly",
    "type": "shell",
    "params": {},
    "state": "succeeded",
    "reason": None,
    "queue": "default",
    "priority": 0,
    "attempt": 1,
    "max_attempts": 1,
    "worker": "w1",
    "created_at": "2026-01-02T03:04:05.000Z",
    "due_at": "2026-01-02T03:04:05.000Z",
    "started_at": "2026-01-02T03:04:05.000Z",
    "finished_at": "2026-01-02T03:04:06.200Z",
    "result": {"exit_code": 0, "signal": None},
    "error": None,
    "attempts": [],
    "history": [],
}


@dataclass
class Asked:
    """A request as the server got it."""

    method: str
    path: str
    query: dict
    headers: dict
    body: object


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = Asked(self.command, parts.path, query, dict(self.headers), json.loads(body) if body else None)
        self.server.script.reply_to(asked)(self)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_):
        pass

    def send(self, status, kind, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Script:
    """What the server answers to what, and what it was asked. The last reply to a request stays."""

    def __init__(self, url):
        self.url = url
        self.asked = []
        self._replies = {}

    def on(self, request, *replies):
        """`request` is such as `GET /runs/r0-1`, below /api/v1."""
        self._replies[request] = list(replies)

    def reply_to(self, asked):
        self.asked.append(asked)
        left = self._replies.get(f"{asked.method} {asked.path.removeprefix('/api/v1')}")
        if not left:
            return problem(404, "not_found", "there is nothing here")
        return left.pop(0) if len(left) > 1 else left[0]

    def requests(self, request):
        return [a for a in self.asked if f"{a.method} {a.path.removeprefix('/api/v1')}" == request]


def document(body, status=200, **headers):
    return lambda handler: handler.send(status, "application/json", json.dumps(body).encode(), **headers)


def problem(status, code, detail, errors=(), **more):
    body = {"status": status, "code": code, "detail": detail, **more, **({"errors": errors} if errors else {})}
    return lambda handler: handler.send(status, "application/problem+json", json.dumps(body).encode())


def log(*lines, then="end", cut=b""):
    """An NDJSON stream of (attempt, line, stream, text), which then ends, breaks, or goes on in silence."""

    def reply(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for attempt, number, stream, text in lines:
            line = {"line": number, "at": "2026-01-02T03:04:05Z", "stream": stream, "attempt": attempt}
            line |= {"text": text.removesuffix("…"), **({"partial": True} if text.endswith("…") else {})}
            _chunk(handler, json.dumps(line, ensure_ascii=False).encode() + b"\n")
        if cut:
            _chunk(handler, cut)
        if then == "end":
            handler.wfile.write(b"0\r\n\r\n")
        elif then == "silence":
            handler.server.is_stopping.wait(30)
        handler.close_connection = True

    return reply


def _chunk(handler, data):
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    handler.wfile.flush()


@pytest.fixture
def server():
    """A scripted server; its `url`, and `on` to write the script."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as listening:
        listening.daemon_threads = True
        listening.is_stopping = threading.Event()
        listening.script = Script(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield listening.script
        listening.is_stopping.set()
        listening.shutdown()
        thread.join()


@pytest.fixture
def environment(tmp_path, request):
    """The environment of a user who has a token and nothing else."""
    url = request.getfixturevalue("server").url if "server" in request.fixturenames else "http://127.0.0.1:1"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TASKMAN_DATA_DIR": str(tmp_path / "data"),
        "TASKMAN_SERVER": url,
        "TASKMAN_TOKEN": "tm_test",
        "TZ": "Europe/Berlin",
    }


@pytest.fixture
def start(environment, tmp_path):
    """Start `taskman` with arguments; keyword arguments are added to the environment (None: taken out)."""

    def start(*args, streams=subprocess.PIPE, **variables):
        chosen = {name: value for name, value in {**environment, **variables}.items() if value is not None}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "taskman", *args],
            env=chosen,
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=streams,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.fixture
def taskman(start):
    """Run `taskman` to its end; no expected error shows a traceback."""

    def run(*args, stdin="", **variables):
        process = start(*args, **variables)
        process.out, process.err = process.communicate(stdin, timeout=20)
        assert "Traceback" not in process.err
        return process

    return run


@pytest.fixture
def replies():
    """How the scripted server can answer."""
    return Replies


class Replies:
    run = RUN
    document = staticmethod(document)
    problem = staticmethod(problem)
    log = staticmethod(log)
