"""As much of a Kubernetes API server as kubectl's apply, get and delete need. It runs no pods."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {"jobs": "Job", "pods": "Pod", "networkpolicies": "NetworkPolicy"}
GROUPS = {"v1": ["pods"], "batch/v1": ["jobs"], "networking.k8s.io/v1": ["networkpolicies"]}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.things: dict[tuple[str, str], dict[str, Any]] = {}
        """By plural and name."""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, query = self._place()
        if path in ("/api", "/apis") or path.split("/", 2)[1] not in ("api", "apis"):
            return self._answer(*_discovery(path))
        group = path.removeprefix("/apis/").removeprefix("/api/")
        if group in GROUPS:
            return self._answer(200, _resources(group))
        if path.count("/") == 4:
            namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": path.split("/")[-1]}}
            return self._answer(200, namespace)
        plural, name = _named(path)
        if name:
            found = self.server.things.get((plural, name))
            return self._answer(200, found) if found else self._answer(404, NOT_FOUND)
        label, _, value = query.get("labelSelector", [""])[0].partition("=")
        items = [
            thing
            for (kind, _), thing in self.server.things.items()
            if kind == plural and (not label or thing["metadata"].get("labels", {}).get(label) == value)
        ]
        kind = f"{KINDS[plural]}List"
        return self._answer(200, {"kind": kind, "apiVersion": _group(path), "metadata": {}, "items": items})

    def do_POST(self) -> None:
        path, _ = self._place()
        thing = self._body()
        thing["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": "1"}
        self.server.things[_named(path)[0], thing["metadata"]["name"]] = thing
        self._answer(201, thing)

    def do_DELETE(self) -> None:
        path, _ = self._place()
        self.server.asked[-1] += f" {json.dumps(self._body())}"
        thing = self.server.things.pop(_named(path), None)
        if thing is None:
            return self._answer(404, NOT_FOUND)
        return self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _place(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        self.server.asked.append(f"{self.command} {self.path}")
        return parts.path.rstrip("/"), parse_qs(parts.query)

    def _body(self) -> dict[str, Any]:
        return dict(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"))

    def _answer(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _group(path: str) -> str:
    head = path.split("/namespaces/")[0]
    return head.removeprefix("/apis/").removeprefix("/api/")


def _named(path: str) -> tuple[str, str]:
    """Plural and name of `…/namespaces/NAMESPACE/PLURAL[/NAME]`."""
    words = path.split("/namespaces/")[1].split("/")
    return words[1], words[2] if len(words) > 2 else ""


def _discovery(path: str) -> tuple[int, Any]:
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path != "/apis":
        return 404, NOT_FOUND
    groups = []
    for name in ("batch", "networking.k8s.io"):
        version = {"groupVersion": f"{name}/v1", "version": "v1"}
        groups.append({"name": name, "versions": [version], "preferredVersion": version})
    return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _resources(group: str) -> Any:
    verbs = ["create", "delete", "get", "list", "patch"]
    found = [
        {"name": plural, "singularName": KINDS[plural].lower(), "kind": KINDS[plural], "namespaced": True}
        | {"verbs": verbs}
        for plural in GROUPS[group]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": found}


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
