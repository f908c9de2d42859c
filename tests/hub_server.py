"""A stand-in of the Hugging Face Hub's HTTP API on the loopback interface, for tests with the real clients.

    with StandInHub() as hub:
        hub.add_repo("owner/model", {"config.json": b"{}"})
        subprocess.run([sys.executable, "-c", script], env=hub.environment(tmp_path, token="hf_owner"))

The clients read HF_ENDPOINT when they are imported, hence the fresh process. Served are models and datasets with their
commits, branches, tags and pull requests, Git-LFS, downloads, search, and the check of a card's metadata. Not served
are Xet storage, redirects to a CDN, compressed, chunked and multipart transfers, pages and orders of long lists,
spaces, discussions, deletions, and commits onto a certain parent.
"""

import base64
import functools
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".bin", ".parquet", ".png", ".safetensors")
LFS_SIZE = 10 * 2**20
PIECE = 2**16
FAULTS = ("corrupt", "cut", "slow", "status")

VERBS = "branch|commit|paths-info|preupload|revision|tag|tree"
REPO = rf"(?P<id>[^/]+(?:/(?!(?:{VERBS})(?:/|$))[^/]+)?)"
API = rf"/api/(?P<kinds>models|datasets)/{REPO}"
GIT = rf"/(?:(?P<kinds>datasets)/)?{REPO}"
REVISION = r"(?P<revision>refs(?:/|%2F)[^/]+?(?:/|%2F)[^/]+|[^/]+)"

# Those of the Hub that tests may need: it knows more.
LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other", "unknown")
PIPELINE_TAGS = ("feature-extraction", "image-classification", "image-feature-extraction", "text-classification")
PIPELINE_TAGS += ("audio-classification", "time-series-forecasting", "token-classification")
RELATIONS = ("adapter", "finetune", "merge", "quantized")
IDENTIFIER = re.compile(r"[\w.-]+(/[\w.-]+)?")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
CARD_FIELDS: dict[str, tuple[Any, Callable[[str], Any], str]] = {
    "license": (str | list, LICENSES.__contains__, "one of the known licenses"),
    "base_model": (str | list, IDENTIFIER.fullmatch, "the id of a model, or a list of them"),
    "datasets": (str | list, IDENTIFIER.fullmatch, "the id of a dataset, or a list of them"),
    "language": (str | list, LANGUAGE.fullmatch, "an ISO 639 code, or a list of them"),
    "base_model_relation": (str, RELATIONS.__contains__, f"one of {RELATIONS}"),
    "pipeline_tag": (str, PIPELINE_TAGS.__contains__, "one of the known tasks"),
    "library_name": (str, str.strip, "a string"),
    "license_name": (str, str.strip, "a string"),
    "tags": (list, str.strip, "an array of strings"),
    "metrics": (list, str.strip, "an array of strings"),
}
RESULT = {"task": {"type": str}, "dataset": {"type": str, "name": str}, "metrics": [{"type": str, "value": object}]}
MODEL_INDEX = [{"name": str, "results": [RESULT]}]


@dataclass(frozen=True)
class Blob:
    """A file's content, kept in git itself or in Git-LFS."""

    data: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def in_git(self) -> bytes:
        """What git holds: the content, or a pointer to it."""
        if not self.lfs:
            return self.data
        version = "version https://git-lfs.github.com/spec/v1"
        return f"{version}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @functools.cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.in_git) + self.in_git, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def described(self) -> dict[str, Any]:
        """What the Hub tells about a file."""
        size = len(self.data)
        lfs = {"lfs": {"oid": self.sha256, "size": size, "pointerSize": len(self.in_git)}} if self.lfs else {}
        return {"size": size, "oid": self.git_oid, **lfs}


@dataclass(frozen=True)
class Commit:
    """A state of all files of a repo."""

    oid: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repo with all its commits; `stored` is its Git-LFS content by hash."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    extra_tags: tuple[str, ...] = ()
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a pull request or a full hash names."""
        oid = {**self.tags, **self.branches, **self.pulls}.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add(self, ref: str, parent: Commit | None, changes: dict[str, Blob]) -> Commit:
        """Put a commit of files to write onto a branch or a pull request."""
        files = dict(sorted({**(parent.files if parent else {}), **changes}.items()))
        commit = Commit(secrets.token_hex(20), parent and parent.oid, files)
        self.commits[commit.oid] = commit
        (self.pulls if ref.startswith("refs/pr/") else self.branches)[ref] = commit.oid
        self.stored.update((blob.sha256, blob.data) for blob in files.values() if blob.lfs)
        return commit

    def history(self, commit: Commit | None) -> Iterator[Commit]:
        """A commit and all before it, newest first."""
        while commit is not None:
            yield commit
            commit = self.commits.get(commit.parent)


def uses_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps a file in Git-LFS; empty files never are."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


def as_list(value: Any) -> list[Any]:
    """What a card may give alone or as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def read_metadata(card: str) -> Any:
    """The YAML at the top of a card; None without. Raises yaml.YAMLError."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?\n)?---[ \t]*(\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(found[1] or "") if found else None


def derive_tags(metadata: dict[str, Any], files: Iterable[str]) -> Iterator[str]:
    """The tags that the Hub makes of a card's metadata and of a repo's files."""
    for name in ("library_name", "pipeline_tag", "tags", "language"):
        yield from as_list(metadata.get(name))
    if any(file.endswith(".safetensors") for file in files):
        yield "safetensors"
    if metadata.get("model-index"):
        yield "model-index"
    for name in as_list(metadata.get("datasets")):
        yield f"dataset:{name}"
    for name in as_list(metadata.get("license")):
        yield f"license:{name}"
    relation = metadata.get("base_model_relation") or "finetune"
    for name in as_list(metadata.get("base_model")):
        yield from (f"base_model:{name}", f"base_model:{relation}:{name}")


def check_card(card: str) -> tuple[list[str], list[str]]:
    """Errors in a card's metadata, and warnings; a task that is not known is an error here, on the Hub a warning."""
    try:
        metadata = read_metadata(card)
    except yaml.YAMLError as error:
        return [f"YAML metadata is not valid: {error}"], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(metadata, dict):
        return ["YAML metadata must be an object"], []
    errors = list(index_errors(metadata["model-index"])) if "model-index" in metadata else []
    for name, (types, valid, what) in CARD_FIELDS.items():
        value = metadata.get(name)
        right = isinstance(value, types) and all(isinstance(v, str) and valid(v) for v in as_list(value))
        if name in metadata and not right:
            errors.append(f'"{name}" must be {what}, but is {value!r}')
    if "other" in as_list(metadata.get("license")) and "license_name" not in metadata:
        errors.append('"license_name" is required where "license" is "other"')
    return errors, []


def index_errors(index: Any) -> Iterator[str]:
    """What the Hub refuses in the results of a model card."""

    def check(value: Any, wanted: Any, where: str) -> Iterator[str]:
        if value is None:
            yield f'"{where}" is required'
        elif isinstance(wanted, dict) and isinstance(value, dict):
            for name, inner in wanted.items():
                yield from check(value.get(name), inner, f"{where}.{name}")
        elif isinstance(wanted, list) and isinstance(value, list) and value:
            for number, item in enumerate(value):
                yield from check(item, wanted[0], f"{where}[{number}]")
        elif isinstance(wanted, dict | list) or not isinstance(value, wanted) or value == "":
            yield f'"{where}" is not of the right type, or empty'

    yield from check(index, MODEL_INDEX, "model-index")


@dataclass
class Answer:
    """Status, body and headers of a response."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> "Answer":
        """An answer in JSON."""
        return cls(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json", **headers})


class Refusal(Exception):
    """An answer that says no, in the form that the Hub's client reads."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = Answer.of({"error": message}, status, **named)


@dataclass
class Request:
    """A request, and how it was answered.

    `path` is without quoting and query, `repo` type and id of what it is about; `bytes_sent` counts the body only.
    """

    method: str
    path: str
    token: str | None
    status: int = 0
    bytes_sent: int = 0
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: Any = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)
    user: str | None = None
    repo: tuple[str, str] | None = None

    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        return json.loads(self.body or b"{}")

    def values(self, name: str) -> list[str]:
        """All values of a parameter of the query."""
        return self.query.get(name, []) + self.query.get(f"{name}[]", [])

    def flag(self, name: str) -> bool:
        """Whether a parameter of the query is set."""
        return self.values(name)[-1:] in (["1"], ["true"], ["True"])


@dataclass
class Fault:
    """What goes wrong with the next `times` requests (None: all) whose path ends in `suffix`, or with every nth.

    `seen` counts these requests, `struck` those that went wrong.
    """

    suffix: str | tuple[str, ...]
    kind: str
    times: int | None
    methods: tuple[str, ...]
    every: int
    options: dict[str, Any]
    seen: int = 0
    struck: int = 0


ROUTES: list[tuple[str, re.Pattern, str]] = []


def route(method: str, pattern: str) -> Callable:
    """Let a method of the hub answer the requests of a method whose quoted path matches."""

    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return register


class StandInHub:
    """A Hub on a free port of the loopback interface, served by threads from `with` to its end.

    `tokens` maps tokens to users, who may write to repos of their own and of `orgs`; `requests` is the log, and
    `elsewhere` the addresses of other hosts that were asked for, and refused. Repos made by HTTP begin with a commit
    of .gitattributes, as on the Hub; those of `add_repo` hold the given files only.
    """

    def __init__(self):
        self.tokens = {"hf_owner": "owner", "hf_stranger": "stranger"}
        self.orgs = {"org"}
        self.requests: list[Request] = []
        self.elsewhere: list[str] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._uploads: dict[str, tuple[Repo, str]] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StandInHub":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: str | os.PathLike, token: str | None = None, **more: Any) -> dict[str, str]:
        """The environment of a process that knows no other Hub, and whose caches are in `home`.

        The hub is its proxy, too: what it asks of other hosts is refused, and is in the log with the host in its path.
        """
        dropped = re.compile(r"HF_|HUGGING|TRANSFORMERS_|(HTTPS?|ALL|FTP|NO)_PROXY$", re.IGNORECASE)
        return {
            **{name: value for name, value in os.environ.items() if not dropped.match(name)},
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "HF_ENDPOINT": self.url,
            "HF_HOME": os.fspath(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "http_proxy": self.url,
            "https_proxy": self.url,
            "no_proxy": "127.0.0.1",
            **({} if token is None else {"HF_TOKEN": token}),
            **{name: str(value) for name, value in more.items()},
        }

    def add_repo(
        self, repo_id: str, files: dict[str, bytes] | Path, *, repo_type="model", private=False, gated=False, tags=()
    ) -> str:
        """Commit files (or those of a folder) onto the main branch of a repo, made if missing; returns the hash."""
        if not isinstance(files, dict):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in Path(files).rglob("*") if p.is_file()}
        with self.lock:
            repo = self._repos.setdefault((repo_type, repo_id), Repo(repo_type, repo_id, private, gated))
            repo.extra_tags += tuple(tags)
            blobs = {path: Blob(data, uses_lfs(path, len(data))) for path, data in files.items()}
            return repo.add("main", repo.at("main") if repo.commits else None, blobs).oid

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> dict[str, bytes]:
        """The files of a repo, those in Git-LFS too."""
        with self.lock:
            return {path: blob.data for path, blob in self._repos[repo_type, repo_id].at(revision).files.items()}

    def commits(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> list[str]:
        """The hashes of a repo's commits, newest first."""
        with self.lock:
            repo = self._repos[repo_type, repo_id]
            return [commit.oid for commit in repo.history(repo.at(revision))]

    def pulled_bytes(self, repo_id: str, *, repo_type: str = "model") -> int:
        """How many bytes of the repo's files were sent."""
        with self.lock:
            sent = [r for r in self.requests if r.repo == (repo_type, repo_id) and r.status in (200, 206)]
            return sum(request.bytes_sent for request in sent if "/resolve/" in request.path)

    def clear_log(self) -> None:
        """Forget the requests so far."""
        with self.lock:
            self.requests.clear()

    def fault(
        self, suffix: str | tuple[str, ...], kind: str, times: int | None = 1, *, methods=("GET",), every=1, **options
    ) -> Fault:
        """Let the next `times` requests (None: all) whose path ends in `suffix` go wrong, or every nth of them.

        Kinds: "cut" (the connection ends `after` bytes of the body, by default half of it), "status" (nothing happens
        but the answer `code`, by default 503), "slow" (the body takes `seconds`, by default 1), "corrupt" (`count`
        bytes from `at` of the body on, a share of it, by default 16 from the middle, are wrong in the bits of `mask`,
        by default all, the headers right).
        Of several faults the first that is left strikes. Returns the fault; with `times` 0 it rests.
        """
        if kind not in FAULTS:
            raise ValueError(f"{kind!r} is not one of {FAULTS}")
        with self.lock:
            self._faults.append(Fault(suffix, kind, times, tuple(methods), every, options))
            return self._faults[-1]

    def clear_faults(self) -> None:
        """Let everything go right again."""
        with self.lock:
            self._faults.clear()

    def take_fault(self, request: Request) -> Fault | None:
        """The fault that strikes a request, counted."""
        with self.lock:
            for fault in self._faults:
                if fault.times != 0 and request.method in fault.methods and request.path.endswith(fault.suffix):
                    fault.seen += 1
                    if fault.seen % fault.every == 0:
                        fault.times, fault.struck = fault.times and fault.times - 1, fault.struck + 1
                        return fault
        return None

    def answer(self, request: Request, quoted_path: str) -> Answer:
        """What a request is answered with, and what it does."""
        method = "GET" if request.method == "HEAD" else request.method
        with self.lock:
            try:
                if request.token is not None and request.token not in self.tokens:
                    raise Refusal(401, "Invalid credentials in Authorization header")
                request.user = self.tokens.get(request.token)
                for served, pattern, name in ROUTES:
                    found = pattern.fullmatch(quoted_path) if method == served else None
                    if found:
                        parts = {key: value and unquote(value) for key, value in found.groupdict().items()}
                        if "id" in parts:
                            request.repo = ((parts.pop("kinds") or "models").removesuffix("s"), parts.pop("id"))
                            parts["repo"] = self._readable(request)
                        return getattr(self, name)(request, **parts)
                raise Refusal(404, "Sorry, we can't find the page you are looking for.")
            except Refusal as refusal:
                return refusal.answer
            except Exception as error:
                return Refusal(400, f"Bad request: {error!r}").answer

    def _owns(self, user: str | None, repo_id: str) -> bool:
        namespace = repo_id.partition("/")[0]
        return user is not None and (user == namespace or namespace in self.orgs)

    def _readable(self, request: Request) -> Repo:
        repo = self._repos.get(request.repo)
        if repo is None or (repo.private and not self._owns(request.user, repo.id)):
            self._check_known(request, "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def _check_known(self, request: Request, code: str | None = None) -> None:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.", code)

    def _check_writer(self, request: Request, repo: Repo, pull: bool = False) -> None:
        """Anybody known may open a pull request; all else is for owners."""
        self._check_known(request)
        if not pull and not self._owns(request.user, repo.id):
            raise Refusal(403, f"You don't have the right to write to {repo.id}")

    @route("POST", "/api/validate-yaml")
    def _validate(self, request: Request) -> Answer:
        errors, warnings = check_card(request.json()["content"])
        status = 400 if errors else 200
        if request.headers.get("Accept") == "text/plain":
            return Answer(status, "\n".join(errors + warnings).encode(), {"Content-Type": "text/plain"})
        listed = {"errors": errors, "warnings": warnings}
        return Answer.of({kind: [{"message": text} for text in texts] for kind, texts in listed.items()}, status)

    @route("POST", "/api/repos/create")
    def _create(self, request: Request) -> Answer:
        self._check_known(request)
        wanted = request.json()
        kind, repo_id = wanted.get("type") or "model", f"{wanted.get('organization') or request.user}/{wanted['name']}"
        if not self._owns(request.user, repo_id):
            raise Refusal(403, f"You don't have the rights to create a {kind} under this namespace: {repo_id}")
        private = wanted.get("private") or wanted.get("visibility") == "private"  # huggingface-hub 1 says the first
        repo = Repo(kind, repo_id, bool(private))
        url = f"{self.url}/{repo.path}"
        if (kind, repo_id) in self._repos:
            return Answer.of({"error": f"You already created this {kind} repo", "url": url}, 409)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.add("main", None, {".gitattributes": Blob(attributes.encode(), False)})
        self._repos[kind, repo_id] = repo
        return Answer.of({"url": url, "name": repo_id})

    def _describe(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        card = commit.files.get("README.md", Blob(b"", False)).data.decode()
        metadata = {} if check_card(card)[0] else read_metadata(card) or {}
        return {
            "id": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": repo.gated and "auto",
            "library_name": metadata.get("library_name"),
            "pipeline_tag": metadata.get("pipeline_tag"),
            "tags": list(dict.fromkeys([*derive_tags(metadata, commit.files), *repo.extra_tags])),
            "cardData": metadata,
            "model-index": metadata.get("model-index"),
            "siblings": [{"rfilename": path} for path in commit.files],
        }

    @route("GET", rf"{API}(?:/revision/{REVISION})?")
    def _info(self, request: Request, repo: Repo, revision: str | None) -> Answer:
        described = self._describe(repo, repo.at(revision or "main"))
        wanted = request.values("expand")
        return Answer.of({name: described.get(name) for name in ("id", *wanted)} if wanted else described)

    @route("GET", "/api/(?P<kinds>models|datasets)")
    def _list(self, request: Request, kinds: str) -> Answer:
        tags = {*request.values("filter"), *request.values("pipeline_tag")}
        (author,) = request.values("author") or [None]
        readable = [repo for repo in self._repos.values() if not repo.private or self._owns(request.user, repo.id)]
        found = [self._describe(r, r.at("main")) for r in readable if f"{r.kind}s" == kinds]
        found = [d for d in found if tags <= set(d["tags"]) and author in (None, d["author"])]
        shown = request.values("expand")
        if shown:
            found = [{name: described.get(name) for name in ("id", *shown)} for described in found]
        return Answer.of(found)

    @staticmethod
    def _entries(commit: Commit, paths: Iterable[str]) -> list[dict[str, Any]]:
        """What the Hub tells about files and folders; nothing about what is not there."""
        entries = []
        for path in paths:
            inside = "".join(f"{p} {blob.git_oid}\n" for p, blob in commit.files.items() if p.startswith(f"{path}/"))
            if path in commit.files:
                entries.append({"type": "file", "path": path, **commit.files[path].described()})
            elif inside:
                oid = hashlib.sha1(inside.encode(), usedforsecurity=False).hexdigest()
                entries.append({"type": "directory", "path": path, "size": 0, "oid": oid})
        return entries

    @route("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
    def _tree(self, request: Request, repo: Repo, revision: str, path: str | None) -> Answer:
        commit = repo.at(revision)
        start = f"{path}/" if path else ""
        found: dict[str, None] = {}
        for file in commit.files:
            if file.startswith(start):
                parts = file.removeprefix(start).split("/")
                depth = len(parts) if request.flag("recursive") else 1
                found |= {start + "/".join(parts[: number + 1]): None for number in range(depth)}
        if path and not found:
            raise Refusal(404, f"{path} does not exist at {revision}", "EntryNotFound")
        return Answer.of(self._entries(commit, found))

    @route("POST", rf"{API}/paths-info/{REVISION}")
    def _paths(self, request: Request, repo: Repo, revision: str) -> Answer:
        paths = parse_qs(request.body.decode()).get("paths", [])
        return Answer.of(self._entries(repo.at(revision), (path.rstrip("/") for path in paths)))

    @route("GET", rf"{GIT}/resolve/{REVISION}/(?P<path>.+)")
    def _resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Answer:
        if repo.gated and not self._owns(request.user, repo.id):
            status = 401 if request.user is None else 403
            raise Refusal(status, f"Access to {repo.id} is restricted.", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        blob = commit.files[path]
        etag, name, size = f'"{blob.etag}"', quote(os.path.basename(path)), len(blob.data)
        headers |= {"Accept-Ranges": "bytes", "Content-Disposition": f"inline; filename*=UTF-8''{name}", "ETag": etag}
        if blob.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if wanted is None:
            return Answer(200, blob.data, headers)
        first = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, blob.data[first : last + 1], headers)

    @route("POST", rf"{API}/preupload/{REVISION}")
    def _preupload(self, request: Request, repo: Repo, revision: str) -> Answer:
        self._check_writer(request, repo, request.flag("create_pr"))
        there, files = repo.at(revision).files, []
        for file in request.json()["files"]:
            mode = "lfs" if uses_lfs(file["path"], file["size"]) else "regular"
            known = {"oid": there[file["path"]].etag} if file["path"] in there else {}
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        return Answer.of({"files": files})

    @route("POST", rf"{GIT}\.git/info/lfs/objects/batch")
    def _batch(self, request: Request, repo: Repo) -> Answer:
        wanted = request.json()
        self._check_writer(request, repo, pull="ref" not in wanted)
        objects = []
        for item in wanted["objects"]:
            if item["oid"] not in repo.stored:
                ticket = secrets.token_hex(16)
                self._uploads[ticket] = (repo, item["oid"])
                item["actions"] = {"upload": {"href": f"{self.url}/lfs/{ticket}"}}
            objects.append(item)
        return Answer.of({"transfer": "basic", "objects": objects})

    @route("PUT", "/lfs/(?P<ticket>[0-9a-f]+)")
    def _store(self, request: Request, ticket: str) -> Answer:
        if ticket not in self._uploads:  # the address itself is the permission, as on S3
            raise Refusal(403, "This address allows no upload")
        repo, oid = self._uploads[ticket]
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, "The content has not the announced hash")
        repo.stored[oid] = request.body
        return Answer()

    @route("POST", rf"{API}/commit/{REVISION}")
    def _commit(self, request: Request, repo: Repo, revision: str) -> Answer:
        pull = request.flag("create_pr")
        self._check_writer(request, repo, pull)
        if not pull and revision not in {**repo.branches, **repo.pulls}:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        _, *operations = [json.loads(line) for line in request.body.splitlines()]
        changes = dict(self._change(repo, operation["key"], operation["value"]) for operation in operations)
        if "README.md" in changes:
            errors, _ = check_card(changes["README.md"].data.decode())
            if errors:
                raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))
        ref, answer = revision, {}
        if pull:
            number = len(repo.pulls) + 1
            ref = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.url}/{repo.path}/discussions/{number}"
        oid = repo.add(ref, repo.at(revision), changes).oid
        url = f"{self.url}/{repo.path}/commit/{oid}"
        return Answer.of({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", **answer})

    @staticmethod
    def _change(repo: Repo, key: str, value: dict[str, Any]) -> tuple[str, Blob]:
        """The path and the content that one line of a commit writes."""
        path = value["path"]
        if key == "lfsFile":
            if value["oid"] not in repo.stored:
                raise Refusal(400, f"{path} points to content that was not uploaded")
            return path, Blob(repo.stored[value["oid"]], True)
        if key != "file":
            raise Refusal(400, f"Unknown operation: {key}")
        content = base64.b64decode(value["content"], validate=True)
        if len(content) > LFS_SIZE:
            raise Refusal(400, f"{path} is too large for git, and belongs into Git-LFS")
        return path, Blob(content, False)

    @route("POST", rf"{API}/branch/(?P<name>.+)")
    def _create_branch(self, request: Request, repo: Repo, name: str) -> Answer:
        self._check_writer(request, repo)
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: refs/heads/{name}")
        repo.branches[name] = repo.at(request.json().get("startingPoint") or "main").oid
        return Answer()

    @route("POST", rf"{API}/tag/{REVISION}")
    def _create_tag(self, request: Request, repo: Repo, revision: str) -> Answer:
        self._check_writer(request, repo)
        repo.tags[request.json()["tag"]] = repo.at(revision).oid
        return Answer()


class _Server(ThreadingHTTPServer):
    """The listening socket; a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64
    hub: StandInHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients may go away in the middle, which tests let them do."""


class _Handler(BaseHTTPRequestHandler):
    """Reads requests, and sends what the hub answers, with its faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the hub has its own log."""

    def serve(self) -> None:
        """Answer a request of any method."""
        hub = self.server.hub
        elsewhere = not self.path.startswith("/")
        parts = urlsplit(self.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        request = Request(
            self.command,
            self.path if elsewhere else unquote(parts.path),
            token if scheme == "Bearer" else None,
            query=parse_qs(parts.query),
            headers=self.headers,
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )
        if hub.closing.is_set():  # a connection that was kept open outlives the listening socket
            self.close_connection = True
            return
        fault = hub.take_fault(request)
        if elsewhere:
            hub.elsewhere.append(self.path)
            answer = Refusal(403, f"{self.path} is not served here").answer
        elif fault is not None and fault.kind == "status":
            answer = Refusal(fault.options.get("code", 503), "A fault that was asked for").answer
        else:
            answer = hub.answer(request, parts.path)
        request.status = answer.status
        with hub.lock:
            hub.requests.append(request)
        self._send(answer, request, fault)

    do_CONNECT = do_GET = do_HEAD = do_POST = do_PUT = serve

    def _send(self, answer: Answer, request: Request, fault: Fault | None) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body, piece, seconds = answer.body, PIECE, 0.0
        if fault is not None and fault.kind == "corrupt":
            start = int(len(body) * fault.options.get("at", 0.5))
            end = start + fault.options.get("count", 16)
            mask = fault.options.get("mask", 255)
            body = body[:start] + bytes(byte ^ mask for byte in body[start:end]) + body[end:]
        elif fault is not None and fault.kind == "cut":
            body = body[: fault.options.get("after", len(body) // 2)]
            self.close_connection = True
        elif fault is not None and fault.kind == "slow":
            piece, seconds = len(body) // 20 + 1, fault.options.get("seconds", 1.0)
        starts = range(0, len(body), piece)
        for start in starts:
            if seconds and self.server.hub.closing.wait(seconds / len(starts)):
                self.close_connection = True
                return
            request.bytes_sent += len(body[start : start + piece])  # first, lest a client's test looks too early
            self.wfile.write(body[start : start + piece])
