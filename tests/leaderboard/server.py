"""A small Kaggle on this machine: real HTTP in threads, state in memory, faults planted per endpoint.

The real client reaches it through `Server.environment`. Every call is recorded, so a test can count what was done.
An endpoint is a method of a service with the API's own name: it takes the JSON body and returns the JSON answer.
"""

import base64
import hashlib
import json
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

USER, KEY = "tester", "s3cret-of-the-tester"


class AnswerError(Exception):
    """An endpoint's own no: a status and Kaggle's words."""

    def __init__(self, status, message="", headers=()):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers)


@dataclass
class Fault:
    """What happens to the next `times` calls of an endpoint, after `skip` that go well.

    status: answered instead of the work. hang: seconds without an answer, then a cut. cut: the connection ends without
    an answer. committed: the work is done all the same before the fault. body: bytes answered with status 200 instead.
    keep: how many bytes of a download get through before a cut; of an upload, how many are kept.
    """

    status: int = 0
    message: str = ""
    headers: dict = field(default_factory=dict)
    hang: float = 0
    cut: bool = False
    committed: bool = False
    body: bytes | None = None
    keep: int | None = None
    times: int = 1
    skip: int = 0


class Server:
    """The server, a context that starts and stops it. Server(competition=Competition) has its service as .competition.

    blobs: token -> bytes that were uploaded. files: path below /files/ -> bytes that can be downloaded.
    calls: (endpoint, body) in order; uploads are "PUT", downloads "GET".
    """

    def __init__(self, **services):
        self.blobs, self.sizes, self.files, self.calls, self.faults = {}, {}, {}, [], {}
        self.services = {name: service(self) for name, service in {"accounts": Accounts, **services}.items()}
        vars(self).update(self.services)
        self.lock = threading.Lock()
        self.keys = {f"Basic {base64.b64encode(f'{USER}:{KEY}'.encode()).decode()}", f"Bearer {KEY}"}
        self._stop = threading.Event()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"kaggle": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home):
        """Variables under which the real client talks to this server alone; `home` is a private folder."""
        proxy = f"http://127.0.0.1:{self.port}"
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
        return {**dict.fromkeys(names, proxy), "NO_PROXY": "", "no_proxy": "", "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
                "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY, "HOME": str(home), "TMPDIR": str(home),
                "KAGGLE_CONFIG_DIR": str(home / ".kaggle")}  # fmt: skip

    def plant(self, endpoint, **fault):
        """Let an endpoint fail: plant("CreateSubmission", cut=True, committed=True)."""
        self.faults.setdefault(endpoint, []).append(Fault(**fault))

    def count(self, endpoint):
        return sum(name == endpoint for name, _ in self.calls)

    def bodies(self, endpoint):
        return [body for name, body in self.calls if name == endpoint]

    def place(self, size):
        """A token and the address to which that many bytes are to be PUT."""
        token = secrets.token_hex(8)
        self.blobs[token], self.sizes[token] = b"", size
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def uploaded(self, token):
        """The bytes of a complete upload. Refuses a token that is unknown or not complete, as Kaggle does."""
        if len(self.blobs.get(token, b"")) != self.sizes.get(token, -1):
            raise AnswerError(400, "The uploaded file is incomplete or was not found")
        return self.blobs[token]

    def fault_of(self, endpoint):
        with self.lock:
            for fault in self.faults.get(endpoint, ()):
                if fault.skip:
                    fault.skip -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault
        return Fault()

    def endpoint(self, name):
        return next((getattr(service, name) for service in self.services.values() if hasattr(service, name)), None)

    def wait(self, seconds):
        self._stop.wait(seconds)


class Accounts:
    """Logging in with a token, and the quota."""

    def __init__(self, server):
        self.server, self.gpu_hours = server, (12, 30)

    def IntrospectToken(self, body):
        return {"active": body.get("token") == KEY, "username": USER}

    def GetAcceleratorQuotaStatistics(self, body):
        used, allowed = self.gpu_hours
        return {"gpuQuota": {"timeUsed": f"{used * 3600}s", "totalTimeAllowed": f"{allowed * 3600}s"}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer's body waits 40 ms for the acknowledgement of its head
    kaggle: Server

    def log_message(self, *_):
        pass

    def do_POST(self):
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self._serve(name, body, lambda: self._work(name, body))

    def do_PUT(self):
        token = urlsplit(self.path).path.rsplit("/", 1)[-1]
        span = self.headers.get("Content-Range", "")
        fault = self.kaggle.fault_of("PUT")
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length if fault.keep is None or not fault.cut else min(length, fault.keep))[: fault.keep]
        self.kaggle.calls.append(("PUT", {"token": token, "span": span, "length": length}))
        if token not in self.kaggle.blobs:
            return self._answer(404, b"")
        if not span.startswith("bytes */"):
            start = int(re.match(r"bytes (\d+)-", span)[1]) if span else 0
            self.kaggle.blobs[token] = self.kaggle.blobs[token][:start] + sent
        if fault.hang or fault.cut:
            self.kaggle.wait(fault.hang)
            return self._cut()
        if fault.status:
            return self._refuse(AnswerError(fault.status, fault.message, fault.headers))
        arrived = len(self.kaggle.blobs[token])
        if arrived == self.kaggle.sizes[token]:
            return self._answer(200, b"{}")
        return self._answer(308, b"", {"Range": f"bytes=0-{arrived - 1}"} if arrived else {})

    def do_GET(self):
        name = urlsplit(self.path).path.removeprefix("/files/")
        self.kaggle.calls.append(("GET", {"name": name, "range": self.headers.get("Range", "")}))
        fault = self.kaggle.fault_of("GET")
        if fault.hang or (fault.cut and fault.keep is None):
            self.kaggle.wait(fault.hang)
            return self._cut()
        if fault.status or name not in self.kaggle.files:
            return self._refuse(AnswerError(fault.status or 404, fault.message, fault.headers))
        return self._send_file(self.kaggle.files[name] if fault.body is None else fault.body, fault)

    def _send_file(self, content, fault):
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "x-goog-hash": f"crc32c=AAAAAA==,md5={digest}"}
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(span[1]) if span and self.headers.get("If-Range", tag) == tag else 0
        rest = content[start:]
        self.send_response(206 if start else 200)
        for key, value in {**headers, **fault.headers, "Content-Length": str(len(rest))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(rest if fault.keep is None else rest[: fault.keep])
        if fault.keep is not None:
            self._cut()

    def _work(self, name, body):
        work = self.kaggle.endpoint(name)
        if work is None:
            raise AnswerError(404, f"no endpoint {name}")
        if name != "IntrospectToken" and self.headers.get("Authorization") not in self.kaggle.keys:
            raise AnswerError(401, "Unauthenticated")
        return work(body)

    def _serve(self, name, body, work):
        with self.kaggle.lock:
            self.kaggle.calls.append((name, body))
        fault = self.kaggle.fault_of(name)
        try:
            faulty = fault.status or fault.hang or fault.cut or fault.body is not None
            with self.kaggle.lock:
                answer = work() if fault.committed or not faulty else None
        except AnswerError as refusal:
            return self._refuse(refusal)
        if fault.hang or fault.cut:
            self.kaggle.wait(fault.hang)
            return self._cut()
        if fault.status:
            return self._refuse(AnswerError(fault.status, fault.message, fault.headers))
        if fault.body is not None:
            return self._answer(200, fault.body, {"Content-Type": "text/html", **fault.headers})
        if isinstance(answer, str):  # a redirection to a file
            return self._answer(302, b"", {"Location": f"http://localhost/files/{answer}"})
        return self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, refusal):
        error = {"code": refusal.status, "message": refusal.message, "status": "FAILED"}
        self._answer(refusal.status, json.dumps({"error": error}).encode(),
                     {"Content-Type": "application/json", **refusal.headers})  # fmt: skip

    def _answer(self, status, content, headers=()):
        self.send_response_only(status)
        for key, value in {"Date": self.date_time_string(), **dict(headers), "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content)

    def _cut(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def until(condition, seconds=60.0):
    """Wait for another thread or process; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
