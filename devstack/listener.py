"""A receiver of the demo's events, on 127.0.0.1."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook


class Listener:
    """Takes every event whose signature is right; use it as a context manager. `secret` comes with the subscription."""

    def __init__(self) -> None:
        self.secret = ""
        self.events: dict[str, dict[str, Any]] = {}
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not listener.secret:
                    self.send_error(503)
                    return
                message = Webhook(listener.secret).verify(body, dict(self.headers))
                for event in message.get("events", [message]):
                    listener.events[event["id"]] = event
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/events"

    def one(self, kind: str) -> str:
        """An event of this kind as it came, or nothing."""
        found = [event for event in self.events.values() if event["type"] == kind]
        return json.dumps(found[0], ensure_ascii=False) if found else ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
