"""Small HTTP servers on this machine: answering as they are told, hanging, and none where one is expected."""

import gzip
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Message
    body: bytes

    def parts(self) -> dict[str, tuple[str | None, bytes]]:
        """Of a multipart form: file name and content, by name."""
        whole = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + self.body)
        assert whole.is_multipart()
        return {
            str(part.get_param("name", header="content-disposition")): (part.get_filename(), part.get_payload(decode=True))
            for part in whole.get_payload()
        }


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    url: str
    requests: list[Request] = field(default_factory=list)


@contextmanager
def answering(answer: Callable[[Request], Answer], port: int = 0) -> Iterator[Server]:
    """A server that answers what `answer` says, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _take(self) -> None:
            body = self._body()
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = Request(self.command, self.path, self.headers, body)
            server.requests.append(request)
            given = answer(request)
            self.send_response(given.status)
            length = {} if given.status == 204 else {"Content-Length": str(len(given.body))}
            for name, value in (length | given.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.body)

        do_GET = do_POST = do_PUT = _take

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was ended in mid-request

    listening = Listening(("127.0.0.1", port), Handler)
    server = Server(f"http://127.0.0.1:{listening.server_port}")
    Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


@contextmanager
def hanging() -> Iterator[str]:
    """The URL of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel takes them
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def refusing() -> str:
    """A URL at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"
