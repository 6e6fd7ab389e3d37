"""kubectl, the only program in this room that talks to the cluster: objects by names and labels, errors in its own
words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from k8s.manifest.objects import INSTANCE, MANAGER
from k8s.manifest.pod import CONTAINER
from trainer.files import parse_json
from trainer.outcome import ConfigError, SchedulerError
from trainer.text import shown, without_middle

QUEUES = "localqueues.kueue.x-k8s.io"

Object = Mapping[str, Any]
OURS = f"app.kubernetes.io/managed-by={MANAGER}"
# Log lines of kubectl's libraries, with continuation lines after tabs, which precede kubectl's own message.
NOISE = re.compile(r"^[EWI][0-9]{4} .*\n?(\t.*\n?)*( >\n?)?", re.MULTILINE)
# Seconds for one request: kubectl asks a server that hangs five times for its kinds; a server that is asked to make
# an object may ask other services first, each for up to half a minute.
READ_S, WRITE_S, EXEC_S = 10, 30, 15
PROGRAM_S = 300
"""kubectl itself may wait for a program that logs a person in; the objects of a large sweep take a minute."""
READING = ("get", "logs", "exec")
SAID_CHARS = 600  # a refused patch is printed with the whole pod on one line; the point is at the end
RUNS_A_CALL = 64  # a longer address may exceed the limit of a proxy before the server
NO_FILE = "No such file or directory"
ASKS_WHO = "Please enter Username"
ASKED_LAST = "server localhost:8080 was refused"  # where kubectl looks when no file tells it of a cluster
NO_CLUSTER = "if kubectl knows no cluster: save yours as ~/.kube/config, or name its file with KUBECONFIG="
REFUSAL = re.compile(r"^Error from server \((\w+)\)|^(The \S+ \S+ is invalid)", re.MULTILINE)
# The server may have done the request without saying so. If a webhook does not answer the server, that is the
# server's refusal.
UNANSWERED = re.compile(
    r"^Error from server \((Server)?Timeout\)"
    r'|^(?!Error from server).*(\b[A-Z][a-z]+ "https?://|Unable to connect|The connection to)',
    re.MULTILINE,
)


class KubectlError(SchedulerError):
    """An error in kubectl's own words."""

    def __init__(self, message: str, *, said: str = "", printed: str = "") -> None:
        super().__init__(message)
        self.said = said
        """Its whole stderr, without its libraries' log lines."""
        self.printed = printed
        """Its stdout: what it did before it failed."""

    @property
    def reason(self) -> str:
        """The server's word for the reason: Forbidden, NotFound, AlreadyExists, ...; "" when it gave none."""
        found = REFUSAL.search(self.said)
        return (found[1] or "Invalid") if found else ""

    @property
    def refused(self) -> bool:
        """Whether the server refused, so that anything not in `printed` was not done. Otherwise nobody knows."""
        return bool(self.reason) and not UNANSWERED.search(self.said)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubectl:
    """kubectl in one namespace: the given one, or that of its context."""

    environ: Mapping[str, str]
    namespace: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment without a person's kuberc, whose defaults change what kubectl does, prints and asks for."""
        return {**self.environ, "KUBERC": "off"}

    def run(self, *arguments: str, text: str | None = None) -> str:
        """The stdout of kubectl. Raises ConfigError without kubectl, KubectlError with its words when it fails."""
        # --request-timeout ends neither exec nor a login program
        limit_s = EXEC_S if arguments[0] == "exec" else PROGRAM_S
        try:
            done = subprocess.run(
                self.command(*arguments),
                env=self.environment,
                input=text or "",
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"kubectl {arguments[0]} did not answer in {limit_s} s") from None
        if done.returncode:
            words = NOISE.sub("", done.stderr)
            said = " ".join((words or done.stdout).split()) or f"exit code {done.returncode}"
            if done.stdout.startswith(ASKS_WHO):
                said = "it has no credentials for this cluster and asks for a user name: log in first"
            message = f"kubectl {arguments[0]} failed: {without_middle(said, SAID_CHARS)}"
            if ASKED_LAST in words:
                message = f"{message} ({NO_CLUSTER})"
            raise KubectlError(message, said=words, printed=done.stdout)
        return done.stdout

    def command(self, *arguments: str, endless: bool = False) -> list[str]:
        """The argument list; `endless` for a command that follows. Raises ConfigError without kubectl."""
        if not shutil.which("kubectl", path=self.environ.get("PATH")):
            raise ConfigError("no kubectl on PATH: make render TO=k8s prints the manifest without it")
        where = ["--namespace", self.namespace] if self.namespace else []
        timeout_s = 0 if endless else READ_S if arguments[0] in READING else WRITE_S
        return ["kubectl", *where, f"--request-timeout={timeout_s}s", *arguments]

    def find(self, kind: str, run_id: str | None = None) -> list[Object]:
        """The objects of a kind, or of several with commas between, of this run or of all runs, oldest first."""
        selector = OURS + (f",{INSTANCE}={run_id}" if run_id else "")
        items = self.items(kind, "--selector", selector)
        return sorted(items, key=lambda item: (item["metadata"].get("creationTimestamp", ""), name_of(item)))

    def items(self, kind: str, *options: str) -> list[Object]:
        return _objects(_read(self.run("get", kind, *options, "--output", "json"), "items")["items"])

    def named(self, kind: str, names: Sequence[str]) -> list[Object]:
        """The existing objects with these names."""
        said = self.run("get", kind, *names, "--ignore-not-found", "--output", "json") if names else ""
        found = _read(said, "kind") if said.strip() else {"items": []}
        return _objects(found.get("items", [found]))

    def get(self, kind: str, name: str) -> Object | None:
        said = self.run("get", kind, name, "--ignore-not-found", "--output", "json")
        return _read(said, "metadata") if said.strip() else None

    def create(self, text: str) -> list[str]:
        """KIND/NAME of the created objects. Raises KubectlError, whose `printed` names the objects created before the
        failure."""
        return self.run("create", "--filename", "-", "--output", "name", text=text).split()

    def replace(self, objects: Sequence[Object]) -> None:
        """Replace objects. Raises KubectlError for an object whose resourceVersion has changed, after replacing those
        before it."""
        self.run("replace", "--filename", "-", text=stream(objects))

    def delete(self, names: Sequence[str]) -> list[str]:
        """KIND/NAME of the objects that kubectl says it deleted; their pods end by themselves."""
        options = ("--ignore-not-found", "--wait=false", "--output", "name")
        return self.run("delete", *names, *options).split() if names else []

    def delete_jobs(self, run_ids: Sequence[str], namespace: str) -> None:
        """Delete every Job of these runs, RUNS_A_CALL runs in a call; their pods end by themselves. kubectl delete
        would ask the server once for each Job, five times a second."""
        for start in range(0, len(run_ids), RUNS_A_CALL):
            selector = f"{OURS},{INSTANCE} in ({','.join(run_ids[start : start + RUNS_A_CALL])})"
            asked = urlencode({"labelSelector": selector, "propagationPolicy": "Background"})
            self.run("delete", "--raw", f"/apis/batch/v1/namespaces/{namespace}/jobs?{asked}")

    def log(self, pod: Object, lines: int) -> str:
        """The end of a pod's log; "" when there is none yet, and kubectl's message when this user may not read it."""
        try:
            return self.run("logs", name_of(pod), "--container", CONTAINER, f"--tail={lines}")
        except KubectlError as error:
            return f"trainyard: {error}\n" if error.reason == "Forbidden" else ""

    def read_file(self, pod: Object, path: str, most_bytes: int) -> str:
        """The beginning of a file in a running pod; "" when there is no such file. Needs the right to create
        pods/exec. Raises KubectlError."""
        words = ("exec", name_of(pod), "--container", CONTAINER, "--", "head", "-c", str(most_bytes), "--", path)
        try:
            return self.run(*words)
        except KubectlError as error:
            if NO_FILE in error.said:
                return ""
            raise


def stream(objects: Sequence[Object]) -> str:
    """Objects in the form that kubectl reads. Not as a List, for which it would first load the server's whole
    OpenAPI."""
    return "\n".join(json.dumps(content) for content in objects)


def _read(said: str, holding: str) -> Object:
    """The answer of `kubectl get`. Raises KubectlError when it is not the expected JSON."""
    try:
        found: Object = parse_json(said)
        found[holding]
    except (ValueError, KeyError, TypeError):
        first = shown(said.partition("\n")[0])
        raise KubectlError(f"kubectl get said {first}, which is not the JSON asked for") from None
    return found


def _objects(found: object) -> list[Object]:
    """The list of objects. Raises KubectlError unless all are objects with names."""
    if isinstance(found, list) and all(
        isinstance(item, dict) and isinstance(item.get("metadata"), dict) and "name" in item["metadata"]
        for item in found
    ):
        return found
    raise KubectlError("kubectl get said something that is no list of objects: does a kubectl of another kind answer?")


def name_of(item: Object) -> str:
    return str(item["metadata"]["name"])
