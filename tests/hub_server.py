# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""A small Hub: enough of its API, over HTTP and in memory, for the real `huggingface_hub` client.

Models and datasets; create, preupload, commit, LFS batch, upload and verify, repository and tree, download. What can go
wrong with a Hub goes wrong on request: see [`Fault`].
"""

import base64
import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin")
LFS_SIZE = 100_000


@dataclass
class Repo:
    """A repository: the files of each commit, oldest first. The first commit is the empty one."""

    kind: str
    name: str
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    def sha(self, index: int = -1) -> str:
        """The id of a commit: of its content too, so that no cache takes one server's commit for another's."""
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.commits[index].items())
        number = range(len(self.commits))[index]
        return hashlib.sha1(f"{self.kind} {self.name} {number} {content}".encode()).hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit id and the files of a branch or commit."""
        if revision in ("main", "HEAD"):
            return self.sha(), self.commits[-1]
        return next(((self.sha(i), files) for i, files in enumerate(self.commits) if self.sha(i) == revision), None)


@dataclass
class Fault:
    """What is to go wrong with requests.

    Attributes:
        part (`str`): Of the requests whose "METHOD path" contains this.
        status (`int`, *optional*): Is answered in place of what would be; `None` does what was asked.
        times (`int`): How many requests; the rest goes well.
        headers (`dict[str, str]`): Go with the status.
        body (`bytes`, *optional*): Goes with the status, in place of JSON.
        cut (`str`, *optional*): When the connection is cut: in the middle of the request's `"body"`, or `"after"` it was
            done and before it is answered.
        dies (`bool`): Cut in the middle, and nobody listens any more until [`HubServer.revive`].
        delay (`float`): Seconds before anything is answered.
    """

    part: str
    status: int | None = None
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: str | None = None
    dies: bool = False
    delay: float = 0.0


@dataclass
class HubServer:
    """What a test sees of the server.

    Attributes:
        url (`str`): For `HF_ENDPOINT`.
        token (`str`): The token that may write to the namespaces `user` and `team`.
        read_token (`str`): One that may only read.
        repos (`dict[str, Repo]`): By `models/user/name` and `datasets/user/name`.
        large_files (`dict[str, bytes]`): What came by LFS, by SHA-256.
        requests (`list[str]`): Method and path of every request.
        cards (`dict[str, dict]`): The card data of a repository, also of one that only exists to be asked about.
        faults (`list[Fault]`): What is to go wrong.
    """

    url: str = ""
    token: str = "hf_" + "w" * 34
    read_token: str = "hf_" + "r" * 34
    repos: dict[str, Repo] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cards: dict[str, dict] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        """The newest content of a repository, by path."""
        return self.repos[f"{kind}/{name}"].commits[-1]

    def serve(self, port: int = 0) -> None:
        """Listens, on a free port if none is given."""
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = Listener(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def die(self) -> None:
        """Stops listening; what it has stays."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
        self.server = None

    def revive(self) -> None:
        """Listens again, where it did."""
        self.serve(urlsplit(self.url).port)

    def next_fault(self, request: str) -> Fault | None:
        """What goes wrong with this request."""
        for fault in self.faults:
            if fault.part in request and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def environment(self, **more: str) -> dict[str, str]:
        """What to add to a child process's environment so that its client talks to this server by LFS, logged in."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": self.token,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **more,
        }

    def run(self, program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a Python program in a process of its own, because the client reads its environment when imported.

        Args:
            program (`str`): The code; its `sys.argv[1:]` are the arguments.
            arguments: Made strings.
            environment: Variables to set on top of [`HubServer.environment`].
        """
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
            env={**os.environ, **self.environment(**environment)},
            capture_output=True,
            text=True,
            timeout=240,
            cwd=Path(__file__).parents[1],
        )


class HubClient:
    """A process with the real client in it, which runs one program after the other. It does not wait: what it was to sleep
    is written down.

    Args:
        server ([`HubServer`]): The Hub it talks to.
    """

    def __init__(self, server: HubServer) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_client"],
            env={**os.environ, **server.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def run(self, program: str, *arguments: object) -> tuple[str, list[float]]:
        """Runs a program; its `sys.argv[1:]` are the arguments, made strings.

        Returns:
            `str` and `list[float]`: What it printed, and the seconds of its sleeps.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([textwrap.dedent(program), list(map(str, arguments))]) + "\n")
        self.process.stdin.flush()
        printed, waits = json.loads(self.process.stdout.readline())
        return printed, waits

    def stderr(self) -> str:
        """All that was logged."""
        self.said.seek(0)
        return self.said.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def running_hub_server() -> Iterator[HubServer]:
    """Serves on a free port of this machine until the block ends."""
    hub = HubServer()
    hub.serve()
    try:
        yield hub
    finally:
        hub.die()


class Listener(ThreadingHTTPServer):
    """The server; that a client was killed is no error of its own."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HubHandler(BaseHTTPRequestHandler):
    """The routes. Each is a pattern over "METHOD path" and a method; the first that matches answers."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    lock = threading.Lock()

    kind = r"(?P<kind>models|datasets)"
    name = r"(?P<name>[^/]+/[^/]+)"
    routes = [
        (r"GET /api/whoami-v2", "whoami"),
        (r"POST /api/validate-yaml", "validate_yaml"),
        (r"POST /api/repos/create", "create"),
        (rf"GET /api/{kind}/{name}/auth-check(?P<write>/write)?", "auth_check"),
        (rf"POST /api/{kind}/{name}/preupload/(?P<revision>[^/]+)", "preupload"),
        (rf"POST /api/{kind}/{name}/commit/(?P<revision>[^/]+)", "commit"),
        (rf"GET /api/{kind}/{name}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", "tree"),
        (rf"POST /api/{kind}/{name}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        (rf"GET /api/{kind}/{name}(/revision/(?P<revision>[^/]+))?", "info"),
        (rf"POST /((?P<kind>datasets)/)?{name}\.git/info/lfs/objects/batch", "lfs_batch"),
        (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        (r"POST /lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
        (rf"(GET|HEAD) /((?P<kind>datasets)/)?{name}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def handle_request(self) -> None:
        request = f"{self.command} {urlsplit(self.path).path}"
        self.hub.requests.append(request)
        fault = self.hub.next_fault(request) or Fault(request)
        if fault.cut == "body" or fault.dies:
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0)))
            if fault.dies:
                self.hub.die()
            return self.hang_up()
        self.body = self.read_body()
        time.sleep(fault.delay)
        if fault.status is not None:
            content = fault.body or {"error": f"failure injected for '{fault.part}'"}
            return self.answer(content, fault.status, **fault.headers)
        if fault.cut == "after":
            self.wfile = io.BytesIO()
        self.do(request)
        if fault.cut == "after":
            self.hang_up()

    def hang_up(self) -> None:
        """Cuts the connection as a broken cable does, without a last word."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.wfile = io.BytesIO()

    def do(self, request: str) -> None:
        """Does what was asked and answers."""
        for pattern, method in self.routes:
            if match := re.fullmatch(pattern, request):
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                with self.lock:
                    return getattr(self, method)(**parts)
        self.answer({"error": f"no such route: {request}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *_) -> None:
        pass

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, content: object, status: int = 200, code: str | None = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        if isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", str(content["error"]))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks

    @property
    def given_token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def refuse_writer(self, namespace: str) -> bool:
        """Answers, and says so, if the token may not write there."""
        if self.given_token not in (self.hub.token, self.hub.read_token):
            self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        elif self.given_token == self.hub.read_token or namespace not in ("user", "team"):
            self.answer({"error": f"You don't have the rights to write to the namespace {namespace}"}, 403)
        else:
            return False
        return True

    def whoami(self) -> None:
        if self.given_token not in (self.hub.token, self.hub.read_token):
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        role = "write" if self.given_token == self.hub.token else "read"
        self.answer({"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": role}}})

    # Repositories

    def repo(self, kind: str, name: str, revision: str = "main") -> tuple[Repo, str, dict[str, bytes]] | None:
        """A repository and what it holds at a revision; answers, and returns nothing, if there is none."""
        repo = self.hub.repos.get(f"{kind}/{name}")
        if repo is None:
            return self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
        if (found := repo.at(revision)) is None:
            return self.answer({"error": f"Invalid rev id: {revision}"}, 404, "RevisionNotFound")
        return repo, *found

    def create(self) -> None:
        asked = json.loads(self.body)
        namespace, name = asked.get("organization") or "user", asked["name"]
        if self.refuse_writer(namespace):
            return
        if not re.fullmatch(r"[\w.-]{1,96}", name):
            return self.answer({"error": f"Invalid repo name: {name}"}, 400)
        kind = (asked.get("type") or "model") + "s"
        key, prefix = f"{kind}/{namespace}/{name}", "" if kind == "models" else f"{kind}/"
        exists = key in self.hub.repos
        self.hub.repos.setdefault(key, Repo(kind, f"{namespace}/{name}"))
        content = {"url": f"{self.hub.url}/{prefix}{namespace}/{name}", "name": f"{namespace}/{name}"}
        if exists:
            content["error"] = "You already created this model repo"
        self.answer(content, 409 if exists else 200)

    def auth_check(self, kind: str, name: str, write: str = "") -> None:
        if self.repo(kind, name) and not (write and self.refuse_writer(name.split("/")[0])):
            self.answer({})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        card = self.hub.cards.get(f"{kind}/{name}")
        if card and f"{kind}/{name}" not in self.hub.repos:
            return self.answer({"id": name, "sha": "0" * 40, "tags": [], "siblings": [], "cardData": card})
        if found := self.repo(kind, name, revision):
            _, sha, files = found
            facts = {"id": name, "sha": sha, "private": False, "tags": [], "downloads": 0, "cardData": card}
            self.answer({**facts, "siblings": [{"rfilename": path} for path in files]})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        if found := self.repo(kind, name, revision):
            prefix = folder.strip("/") + "/" if folder.strip("/") else ""
            self.answer([describe(path, data) for path, data in found[2].items() if path.startswith(prefix)])

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        if found := self.repo(kind, name, revision):
            paths = json.loads(self.body)["paths"]
            self.answer([describe(path, data) for path, data in found[2].items() if path in paths])

    def resolve(self, name: str, revision: str, path: str, kind: str = "models") -> None:
        if not (found := self.repo(kind, name, revision)):
            return
        _, sha, files = found
        if path not in files:
            return self.answer({"error": "Entry not found"}, 404, "EntryNotFound", X_Repo_Commit=sha)
        data, status, headers = files[path], 200, {"X_Repo_Commit": sha, "ETag": f'"{etag(path, files[path])}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.answer(data, status, **headers)

    # Uploads

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        if content.startswith("---\n") and "\n---\n" in content:
            return self.answer({"errors": [], "warnings": []})
        self.answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if self.refuse_writer(name.split("/")[0]) or not (found := self.repo(kind, name, revision)):
            return
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": etag(file["path"], found[2][file["path"]]) if file["path"] in found[2] else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer({"files": modes, "commitOid": found[1]})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if self.refuse_writer(name.split("/")[0]) or not (found := self.repo(kind, name, revision)):
            return
        repo, _, old = found
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        files, message = dict(old), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large_files:
                    return self.answer({"error": f"LFS object {value['oid']} was not uploaded"}, 400)
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif line["key"] in ("deletedFile", "deletedFolder"):
                gone = value["path"]
                files = {
                    path: data for path, data in files.items() if path != gone and not path.startswith(f"{gone}/")
                }
        repo.commits.append(files)
        repo.messages.append(message)
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.hub.url}/{prefix}{name}/commit/{repo.sha()}"
        self.answer({"success": True, "commitOid": repo.sha(), "commitUrl": url, "hookOutput": ""})

    def lfs_batch(self, name: str, kind: str = "models") -> None:
        if self.refuse_writer(name.split("/")[0]):
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if asked["oid"] not in self.hub.large_files:
                href = f"{self.hub.url}/lfs/{asked['oid']}"
                asked["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(asked)
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer({"error": "the content does not have this SHA-256"}, 400)
        self.hub.large_files[oid] = self.body
        self.answer({})

    def lfs_verify(self, oid: str) -> None:
        same = len(self.hub.large_files.get(oid, b"")) == json.loads(self.body)["size"]
        self.answer({} if same else {"error": "not what was announced"}, 200 if same else 422)


def is_large(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE


def etag(path: str, data: bytes) -> str:
    """The SHA-256 of a large file, the git blob id of a small one."""
    if is_large(path, len(data)):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def describe(path: str, data: bytes) -> dict:
    """A file as the tree of a repository lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if is_large(path, len(data)):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
