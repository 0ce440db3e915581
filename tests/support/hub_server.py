"""A Hub on this machine for tests.

It implements the part of the HTTP interface that huggingface_hub uses to create a repository, to
upload to it and to load from it.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopbackTokenOfNobody"
USER = "tester"


@dataclass
class Hub:
    """What the server holds and received.

    Attributes:
        files: repository -> path -> content after the last commit.
        commits: the messages of all commits.
        objects: hash -> content of the large files.
        received: all requests as they came: request line, headers without the token, and body.
        failures: part of "METHOD /path" -> statuses of the next such requests; 0 closes the
            connection without an answer.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    failures: dict[str, Iterable[int]] = field(default_factory=dict)

    def failure(self, request: str) -> int | None:
        for part, statuses in self.failures.items():
            if part in request:
                self.failures[part] = statuses = iter(statuses)
                return next(statuses, None)
        return None

    def count(self, part: str) -> int:
        return sum(part.encode() in request.split(b"\n")[0] for request in self.received)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def answer(self, content: Any = b"", status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.answer({"error": code}, 404, X_Error_Code=code)

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        told = [
            f"{name}: {value}"
            for name, value in self.headers.items()
            if name.lower() != "authorization"
        ]
        self.hub.received.append(
            "\n".join([f"{self.command} {self.path}", *told, ""]).encode() + body
        )
        status = self.hub.failure(f"{self.command} {self.path}")
        if status == 0:
            self.close_connection = True
            return None
        if status is not None:
            return self.answer({"error": f"asked to fail with {status}"}, status)
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
            return self.answer({"error": "Invalid username or password."}, 401)
        for method, pattern, function in ROUTES:
            if method == self.command.replace("HEAD", "GET") and (
                match := re.fullmatch(pattern, path)
            ):
                return function(self, body, *match.groups())
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def log_message(self, *_: Any) -> None:
        pass

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        if repo in self.hub.files:
            return self.answer({"url": f"{self.hub.url}/{repo}", "error": "exists"}, 409)
        self.hub.files[repo] = {}
        return self.answer({"url": f"{self.hub.url}/{repo}"})

    def whoami(self, body: bytes) -> None:
        self.answer({"type": "user", "name": USER, "orgs": []})

    def validate(self, body: bytes) -> None:
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = [
            {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
            for file in files
        ]
        self.answer({"files": modes})

    def batch(self, body: bytes, repo: str) -> None:
        wanted = json.loads(body)["objects"]
        actions = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            for one in wanted
        ]
        self.answer(
            {"transfer": "basic", "objects": actions}, Content_Type="application/vnd.git-lfs+json"
        )

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer({"error": "this is not the file that was announced"}, 400)
        self.hub.objects[oid] = body
        return self.answer()

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer({"error": f"{value['path']} was never uploaded"}, 400)
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.hub.files[repo] |= files
        self.hub.commits.append(message)
        return self.answer(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{self.sha()}", "commitOid": self.sha()}
        )

    def sha(self) -> str:
        return f"{len(self.hub.commits):040x}"

    def info(self, body: bytes, repo: str) -> None:
        if repo not in self.hub.files:
            return self.missing("RepoNotFound")
        siblings = [{"rfilename": path} for path in self.hub.files[repo]]
        return self.answer(
            {"id": repo, "sha": self.sha(), "siblings": siblings, "tags": [], "private": False}
        )

    def tree(self, body: bytes, repo: str, folder: str | None) -> None:
        inside = f"{folder}/" if folder else ""
        files = {
            path: content
            for path, content in self.hub.files.get(repo, {}).items()
            if path.startswith(inside)
        }
        if not files:
            return self.missing("EntryNotFound")
        return self.answer(
            [
                {"type": "file", "path": path, "size": len(files[path]), "oid": _oid(files[path])}
                for path in files
            ]
        )

    def resolve(self, body: bytes, repo: str, path: str) -> None:
        if path not in self.hub.files.get(repo, {}):
            return self.missing("EntryNotFound" if repo in self.hub.files else "RepoNotFound")
        content = self.hub.files[repo][path]
        return self.answer(content, ETag=f'"{_oid(content)}"', X_Repo_Commit=self.sha())


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".png", ".pt", ".pth")) else "regular"


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", f"/api/models/{REPO}/preupload/([^/]+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.put),
    ("POST", f"/api/models/{REPO}/commit/([^/]+)", Handler.commit),
    ("GET", f"/api/models/{REPO}(?:/revision/[^/]+)?", Handler.info),
    ("GET", f"/api/models/{REPO}/tree/[^/]+(?:/(.+))?", Handler.tree),
    ("GET", f"/{REPO}/resolve/[^/]+/(.+)", Handler.resolve),
]


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Runs a new, empty Hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
