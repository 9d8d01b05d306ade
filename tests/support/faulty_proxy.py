"""A server between a client and an object store that fails on purpose, on this machine only."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np

# What a network and a store do to a request for a moment.
TRANSIENT = ("500", "503", "slow", "cut", "lost", "refused")
_ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
}
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "keep-alive", "expect")
SLOW_SECONDS = 0.3

# From (method, path with its query) to a fault, or "" for none. Faults are:
#   500, 503, 403  an answer in the store's own words
#   slow           the right answer, late
#   cut            the head of the right answer, then half of its body
#   lost           the request is carried out, but nobody hears of it
#   refused        the connection is closed before the request is carried out
Schedule = Callable[[str, str], str]


def random_faults(rate: float, seed: int, most: int = 2) -> Schedule:
    """Returns a schedule of transient faults.

    Args:
      rate: share of the requests that fail.
      seed: of what fails; threads make the order of requests differ all the same.
      most: faults of one and the same request, so that trying again helps.
    """
    random, lock, met = np.random.default_rng(seed), threading.Lock(), Counter[tuple[str, str]]()

    def choose(method: str, path: str) -> str:
        with lock:
            if random.random() >= rate or met[method, path] >= most:
                return ""
            met[method, path] += 1
            return TRANSIENT[random.integers(0, len(TRANSIENT))]

    return choose


def first_times(fault: str, times: int = 1) -> Schedule:
    """Returns a schedule that fails every request the first times it comes."""
    lock, met = threading.Lock(), Counter[tuple[str, str]]()

    def choose(method: str, path: str) -> str:
        with lock:
            met[method, path] += 1
            return fault if met[method, path] <= times else ""

    return choose


def always(fault: str, method: str, ending: str) -> Schedule:
    """Returns a schedule that fails one kind of request to one object for ever."""

    def choose(got: str, path: str) -> str:
        return fault if got == method and urlsplit(path).path.endswith(ending) else ""

    return choose


class FaultyProxy:
    """Passes requests on to a store, except for those that it fails.

    Attributes:
      schedule: says which; may be exchanged while the server runs.
      faults: how often each was met.
    """

    def __init__(self, endpoint: str) -> None:
        self.schedule: Schedule = lambda method, path: ""
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.target = urlsplit(endpoint).netloc
        self._lock = threading.Lock()

    def next_fault(self, method: str, path: str) -> str:
        """Returns the fault of a request, and counts it."""
        fault = self.schedule(method, path)
        with self._lock:
            self.requests += 1
            self.faults.update([fault] if fault else [])
        return fault

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serves; yields the address."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Stays quiet."""

    def _handle(self) -> None:
        body = self._body()
        fault = self.proxy.next_fault(self.command, self.path)
        if fault == "refused":
            self.close_connection = True
            return
        if fault in _ERRORS:
            status, code = _ERRORS[fault]
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], text)
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        status, headers, data = self._pass_on(body)
        if fault == "lost":
            self.close_connection = True
            return
        self._answer(status, headers, data, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP]
            if self.command == "HEAD":
                kept.append(("Content-Length", response.getheader("Content-Length") or "0"))
            return response.status, kept, response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        elif not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut
