"""A Kubernetes API server for tests, in memory and on loopback, for the real kubectl.

    with ApiServer.started() as server:
        subprocess.run(["kubectl", "--kubeconfig", server.write_kubeconfig(folder), "get", "jobs"])
        server.objects["jobs", "default", "mine"]["status"] = {"conditions": [...]}

It keeps objects, answers discovery, and does to them what kubectl asks: create, get, list, patch, replace, delete, dry
runs, logs of pods with follow, and files that `head` reads in a pod. Its errors are the Status objects of the real one,
so kubectl's own words appear.
No controller is in it: tests write pods and ends of Jobs themselves, or let job_controller.py do it. Of admission and
validation it has what the tests need: existing names, the rules of api_rules.py, conflicts, quantities as text,
namespaces, and refusals that a test asks for. The words are those of kube-apiserver 1.36, as trials by hand showed them
and as its sources have them. No test asks it again: no API server can be installed where the tests run.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from api_rules import changed_faults, faults
from pod_exec import send_exec

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural, namespace ("" for what lies in none) and name."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    kind: str
    plural: str
    group_version: str = "v1"
    namespaced: bool = True

    @property
    def group(self) -> str:
        return self.group_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.group_version.rpartition("/")[2]

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = (
    Resource(kind="ConfigMap", plural="configmaps"),
    Resource(kind="Event", plural="events"),
    Resource(kind="Namespace", plural="namespaces", namespaced=False),
    Resource(kind="Node", plural="nodes", namespaced=False),
    Resource(kind="PersistentVolumeClaim", plural="persistentvolumeclaims"),
    Resource(kind="Pod", plural="pods"),
    Resource(kind="Service", plural="services"),
    Resource(kind="Job", plural="jobs", group_version="batch/v1"),
)
KUEUE = tuple(
    Resource(kind=kind, plural=f"{kind.lower()}s", group_version="kueue.x-k8s.io/v1beta1")
    for kind in ("LocalQueue", "Workload")
)
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update"]
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)
# Lists that a strategic merge patch merges, by the key of their parts; it replaces every other list.
MERGED_LISTS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "port"}


class Refused(Exception):
    """A refusal, which is answered as a Status."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = {
            **{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"},
            **{"message": message, "reason": reason, "details": details, "code": code},
        }


class HungUp(Exception):
    """The connection is closed without an answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of kubectl."""

    method: str
    resource: Resource
    namespace: str
    name: str
    part: str
    query: dict[str, str]
    body: Any

    @property
    def dry_run(self) -> bool:
        return bool(self.query.get("dryRun") or (isinstance(self.body, dict) and self.body.get("dryRun")))

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        method = "LIST" if self.method == "GET" and not self.name else self.method
        return f"{method} {self.resource.plural}{name}{' (dry run)' * self.dry_run}"


@dataclass
class ApiServer:
    """The cluster: tests read and write `objects`, `logs` and `refusals` while it answers."""

    resources: tuple[Resource, ...] = RESOURCES
    objects: dict[Key, Object] = field(default_factory=dict)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    """The output of a pod's container, by namespace and name; none: the container has not started."""
    log_breaks: dict[tuple[str, str], int] = field(default_factory=dict)
    """Number of lines after which every connection to that log is closed, without an error."""
    files: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """The files that a running pod's container sees, by namespace and name, then by path."""
    refusals: dict[str, Refused] = field(default_factory=dict)
    """By `str(request)`, with the name or without: `POST jobs (dry run)`, `PUT configmaps`, `LIST jobs`."""
    hooks: dict[str, Callable[[], object]] = field(default_factory=dict)
    """Functions by `str(request)`, called before the request is answered."""
    away: bool = False
    """Whether every connection is closed without an answer."""
    requests: list[Request] = field(default_factory=list)
    """Requests for objects, without those of discovery."""
    port: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    changes: int = 0

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[ApiServer]:
        server = cls()
        server.add("namespaces", "default", {})
        handler = type("Handler", (_Handler,), {"server_state": server})
        http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        http.daemon_threads = True
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            http.server_close()

    def write_kubeconfig(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "kubeconfig"
        config = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "test"},
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def add(self, plural: str, name: str, content: Object, namespace: str = "default") -> Object:
        """Store an object unchanged, replacing one of that name; its metadata may be left out."""
        (resource,) = [resource for resource in self.resources if resource.plural == plural]
        with self.lock:
            namespace = namespace if resource.namespaced else ""
            made = {"apiVersion": resource.group_version, "kind": resource.kind, **copy.deepcopy(content)}
            made["metadata"] = {"name": name, **self._identity(namespace), **content.get("metadata", {})}
            self.objects[plural, namespace, name] = made
            return made

    def named(self, plural: str, namespace: str = "default") -> dict[str, Object]:
        """The objects of a kind in a namespace, by name."""
        with self.lock:
            return {key[2]: found for key, found in self.objects.items() if key[:2] == (plural, namespace)}

    def hang_up(self) -> None:
        """A hook that closes the connection."""
        raise HungUp

    def answer(self, request: Request) -> Object:
        """The answer to a request. Raises Refused."""
        if hook := self.hooks.get(str(request)):
            hook()
        with self.lock:
            self.requests.append(request)
            whole = f"{request.method} {request.resource.plural}{' (dry run)' * request.dry_run}"
            if refused := self.refusals.get(str(request)) or self.refusals.get(whole):
                raise refused
            return copy.deepcopy(getattr(self, f"_{request.method.lower()}")(request))

    def _get(self, request: Request) -> Object:
        return self._there(request) if request.name else self._list(request)

    def _list(self, request: Request) -> Object:
        wanted = selector(request.query.get("labelSelector", ""))
        fields = dict(part.split("=") for part in request.query.get("fieldSelector", "").split(",") if part)
        resource = request.resource
        items = [
            found
            for (plural, namespace, _), found in sorted(self.objects.items())
            if plural == resource.plural
            and (namespace == request.namespace or not request.namespace)
            and all(found["metadata"].get("labels", {}).get(name) in values for name, values in wanted.items())
            and all(found.get(name) == value for name, value in fields.items())
        ]
        metadata = {"resourceVersion": str(self.changes)}
        head = {"apiVersion": resource.group_version, "kind": f"{resource.kind}List", "metadata": metadata}
        return {**head, "items": items}

    def _post(self, request: Request) -> Object:
        made = request.body
        name = made["metadata"]["name"]
        if request.resource.namespaced and ("namespaces", "", request.namespace) not in self.objects:
            raise _not_found("namespaces", request.namespace)
        key = (request.resource.plural, request.namespace, name)
        if key in self.objects:
            message = f'{request.resource.full_name} "{name}" already exists'
            raise Refused(409, "AlreadyExists", message, name=name, kind=request.resource.plural)
        _refuse_invalid(request, faults(made))
        made["metadata"] |= self._identity(request.namespace)
        return self._keep(request, key, made)

    def _patch(self, request: Request) -> Object:
        there = self._there(request)
        return self._change(request, there, merged(copy.deepcopy(there), request.body))

    def _put(self, request: Request) -> Object:
        there = self._there(request)
        kept = {name: there["metadata"][name] for name in ("uid", "creationTimestamp")}
        metadata = {"resourceVersion": there["metadata"]["resourceVersion"], **request.body["metadata"], **kept}
        return self._change(request, there, {**request.body, "metadata": metadata})

    def _delete(self, request: Request) -> Object:
        if not request.name:
            found = self._list(request)["items"]
            for item in found if not request.dry_run else ():
                del self.objects[request.resource.plural, request.namespace, item["metadata"]["name"]]
            return {**self._list(request), "items": found}
        there = self._there(request)
        if not request.dry_run:
            del self.objects[request.resource.plural, request.namespace, request.name]
        details = {"name": request.name, "kind": request.resource.plural, "uid": there["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _there(self, request: Request) -> Object:
        found = self.objects.get((request.resource.plural, request.namespace, request.name))
        if found is None:
            raise _not_found(request.resource.full_name, request.name)
        return found

    def _change(self, request: Request, there: Object, changed: Object) -> Object:
        name = request.name
        if changed["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
            said = "the object has been modified; please apply your changes to the latest version and try again"
            where = f'Operation cannot be fulfilled on {request.resource.full_name} "{name}"'
            raise Refused(409, "Conflict", f"{where}: {said}", name=name, kind=request.resource.plural)
        _refuse_invalid(request, changed_faults(there, changed))
        return self._keep(request, (request.resource.plural, request.namespace, name), changed)

    def _keep(self, request: Request, key: Key, content: Object) -> Object:
        quantities_as_text(content)
        if request.dry_run or content == self.objects.get(key):
            return content
        self.changes += 1
        content["metadata"]["resourceVersion"] = str(self.changes)
        self.objects[key] = content
        return content

    def _identity(self, namespace: str) -> Object:
        self.changes += 1
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1795564800 + self.changes))
        place = {"namespace": namespace} if namespace else {}
        return {**place, "uid": str(uuid.uuid4()), "resourceVersion": str(self.changes), "creationTimestamp": made}

    # What follows tells kubectl which kinds there are.

    def discovery(self, path: str, aggregated: bool) -> Object:
        """The answer to a discovery request. Raises Refused for an unknown path."""
        groups = sorted({resource.group for resource in self.resources} - {""})
        if path == "/version":
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        if path in ("/api", "/apis") and aggregated:
            items = [self._aggregated(group) for group in ([""] if path == "/api" else groups)]
            return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            found = [
                {"name": r.group, "versions": [version], "preferredVersion": version}
                for r in {r.group: r for r in self.resources if r.group}.values()
                for version in [{"groupVersion": r.group_version, "version": r.version}]
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
        if path == "/openapi/v3":
            versions = {("apis/" if r.group else "api/") + r.group_version for r in self.resources}
            return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in sorted(versions)}}
        if path.startswith("/openapi/v3/"):
            return self._openapi(path.removeprefix("/openapi/v3/api").removeprefix("s").strip("/"))
        return self._legacy(path.removeprefix("/api").removeprefix("s").strip("/"))

    def _aggregated(self, group: str) -> Object:
        members = [resource for resource in self.resources if resource.group == group]
        kinds = [
            {
                **{"resource": r.plural, "singularResource": r.kind.lower(), "verbs": VERBS},
                "responseKind": {"group": r.group, "version": r.version, "kind": r.kind},
                "scope": "Namespaced" if r.namespaced else "Cluster",
            }
            for r in members
        ]
        version = {"version": members[0].version, "freshness": "Current", "resources": kinds}
        return {"metadata": {"name": group or None}, "versions": [version]}

    def _legacy(self, group_version: str) -> Object:
        """The list that servers and clients without aggregated discovery use."""
        members = [
            {
                "name": r.plural,
                "singularName": r.kind.lower(),
                "kind": r.kind,
                "namespaced": r.namespaced,
                "verbs": VERBS,
            }
            for r in self.resources
            if r.group_version == group_version
        ]
        if not members:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version}
        return {**head, "resources": members}

    def _openapi(self, group_version: str) -> Object:
        """Enough for kubectl to leave the checking of fields, and dry runs, to the server."""
        parameters = [{"name": name, "in": "query"} for name in ("dryRun", "fieldValidation")]
        paths = {
            f"/{r.plural}/{{name}}": {
                "patch": {
                    "parameters": parameters,
                    "x-kubernetes-group-version-kind": {"group": r.group, "version": r.version, "kind": r.kind},
                }
            }
            for r in self.resources
            if r.group_version == group_version
        }
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": paths}


def selector(text: str) -> dict[str, list[str]]:
    """`a=b,c in (d,e)` as the values that each label may have."""
    parts = re.findall(r"([^=,()\s]+)(?:=([^,]*)|\s+in\s+\(([^)]*)\))", text)
    return {name: listed.split(",") if listed else [value] for name, value, listed in parts}


def _not_found(kind: str, name: str) -> Refused:
    return Refused(404, "NotFound", f'{kind} "{name}" not found', name=name, kind=kind)


def _refuse_invalid(request: Request, found: list[tuple[str, str]]) -> None:
    if not found:
        return
    resource, name = request.resource, request.name or request.body["metadata"]["name"]
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    causes = [{"reason": "FieldValueInvalid", "message": said, "field": field} for field, said in found]
    told = [f"{field}: {said}" for field, said in found]
    whole = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    message = f'{kind} "{name}" is invalid: {whole}'
    raise Refused(422, "Invalid", message, name=name, group=resource.group, kind=resource.kind, causes=causes)


def forbidden(verb: str, resource: str) -> Refused:
    """The refusal of a role that may not do something."""
    said = f'{resource} is forbidden: User "ada" cannot {verb} resource "{resource}" in the namespace "default"'
    return Refused(403, "Forbidden", said, kind=resource)


def merged(there: Any, patch: Any, key: str = "") -> Any:
    """`there` after a strategic merge patch, which for a mapping is a merge patch too."""
    if isinstance(patch, dict) and isinstance(there, dict):
        for name, value in patch.items():
            if name.startswith("$"):
                continue
            if value is None:
                there.pop(name, None)
            else:
                there[name] = merged(there.get(name), value, name)
        return there
    by = MERGED_LISTS.get(key)
    if by and isinstance(there, list):
        parts = {part[by]: part for part in there}
        for part in patch:
            if part.get("$patch") == "delete":
                parts.pop(part[by], None)
            else:
                parts[part[by]] = merged(parts.get(part[by], {}), part)
        return list(parts.values())
    return patch


def quantities_as_text(content: Any) -> None:
    """Turn quantities into text, as the server keeps them."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name in ("requests", "limits") and isinstance(value, dict):
                content[name] = {resource: str(amount) for resource, amount in value.items()}
            else:
                quantities_as_text(value)
    elif isinstance(content, list):
        for part in content:
            quantities_as_text(part)


class _Handler(BaseHTTPRequestHandler):
    server_state: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        try:
            if self.server_state.away:
                raise HungUp
            request = self._request(address.path, query, sent)
            if request is None:
                aggregated = "as=APIGroupDiscoveryList" in (self.headers.get("Accept") or "")
                self._send(200, self.server_state.discovery(address.path, aggregated))
            elif request.part == "log":
                self._send_log(request)
            elif request.part == "exec":
                self._send_exec(request)
            else:
                self._send(201 if request.method == "POST" else 200, self.server_state.answer(request))
        except HungUp:
            self.close_connection = True
        except Refused as refused:
            self._send(refused.status["code"], refused.status)

    def _request(self, path: str, query: dict[str, str], sent: bytes) -> Request | None:
        """None where it asks which kinds there are."""
        found = PATH.fullmatch(path)
        if found is None or path.startswith("/openapi"):
            return None
        group_version = "/".join(filter(None, (found["group"], found["version"])))
        for resource in self.server_state.resources:
            if (resource.group_version, resource.plural) == (group_version, found["plural"]):
                return Request(
                    method=self.command,
                    resource=resource,
                    namespace=found["namespace"] or "",
                    name=found["name"] or "",
                    part=found["part"] or "",
                    query=query,
                    body=json.loads(sent) if sent else None,
                )
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def _send(self, code: int, content: Object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        kind = "application/json"
        if content.get("kind") == "APIGroupDiscoveryList":
            kind += ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_exec(self, request: Request) -> None:
        with self.server_state.lock:
            self.server_state.requests.append(request)
            if refused := self.server_state.refusals.get("POST pods/exec"):
                raise refused
            files = self.server_state.files.get((request.namespace, request.name), {})
        send_exec(self, files)

    def _send_log(self, request: Request) -> None:
        """To its present end; a follower gets more of it until the pod has ended."""
        state = self.server_state
        key, where = ("pods", request.namespace, request.name), (request.namespace, request.name)
        with state.lock:
            state.requests.append(request)
            if refused := state.refusals.get("GET pods/log"):
                raise refused
            if where not in state.logs:
                said = f'container "trainer" in pod "{request.name}" is waiting to start: ContainerCreating'
                raise Refused(400, "BadRequest", said)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        most = state.log_breaks.get(where, len(state.logs[where]))
        since = request.query.get("sinceTime", "")
        stamped = request.query.get("timestamps") == "true"
        first = 0
        if tail := request.query.get("tailLines"):
            first = max(0, len(state.logs[where].splitlines()) - int(tail))
        while True:
            lines = list(enumerate(state.logs[where].splitlines(keepends=True)))[first:][:most]
            for number, line in lines:
                # A tenth of a second a line; sinceTime counts in seconds, so lines of its second come again.
                stamp = f"2026-11-25T00:{number // 600:02}:{number // 10 % 60:02}.{number % 10}Z"
                if stamp[:19] >= since[:19]:
                    self.wfile.write(((f"{stamp} " if stamped else "") + line).encode())
            first += len(lines)
            self.wfile.flush()
            pod = state.objects.get(key)
            gone = pod is None or pod["status"]["phase"] != "Running"
            if request.query.get("follow") != "true" or where in state.log_breaks or (gone and not lines):
                return
            time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `requests` holds them."""
