"""Requests of a sweep to the W&B service, over plain HTTP: a login node has no client, and a supervisor no time for
one. They are the requests of wandb's own agent: create a sweep, find one, register an agent, report on its trial."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from trainer.deadline import within
from trainer.files import MIB, parse_json
from trainer.outcome import ConfigError
from trainer.placeholder import NOT_FILLED_IN, is_placeholder
from trainer.text import printable
from trainer.yaml_file import parse_yaml

KEY = "WANDB_API_KEY"
PROJECT = "trainyard"
DEFAULT_URL = "https://api.wandb.ai"
TIMEOUT_S = 30
"""For each part of an answer."""
ANSWER_S = 60.0
"""For a whole answer."""
MOST_ANSWER_MIB = 16
MOST_NAME = 128

UPSERT_SWEEP = """mutation UpsertSweep($config: String, $entityName: String, $projectName: String) {
  upsertSweep(input: {config: $config, entityName: $entityName, projectName: $projectName}) {
    sweep { name project { name entity { name } } } configValidationWarnings } }"""
GET_SWEEP = """query Sweep($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) { name entity { name }
    sweep(sweepName: $sweep) { name state config } } }"""
CREATE_AGENT = """mutation CreateAgent($host: String!, $projectName: String, $entityName: String, $sweep: String!) {
  createAgent(input: {host: $host, projectName: $projectName, entityName: $entityName, sweep: $sweep}) {
    agent { id } } }"""
HEARTBEAT = """mutation Heartbeat($id: ID!, $metrics: JSONString, $runState: JSONString) {
  agentHeartbeat(input: {id: $id, metrics: $metrics, runState: $runState}) { agent { id } commands } }"""


class ServiceError(OSError):
    """The service gave no valid answer. The message is one line; another try may succeed."""


@contextmanager
def as_service_error() -> Iterator[None]:
    """Turns an error of reading what the service answered into a ServiceError: a server may answer anything."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError):
        raise ServiceError("the service answered something else than it was asked") from None


@as_service_error()
def create_sweep(config: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The path of a new sweep, `entity/project/id`. Raises ConfigError without an accepted key, ServiceError."""
    where = {"entityName": environ.get("WANDB_ENTITY"), "projectName": environ.get("WANDB_PROJECT") or PROJECT}
    found = _ask(UPSERT_SWEEP, {"config": yaml.safe_dump(dict(config)), **where}, environ)["upsertSweep"]["sweep"]
    project = found["project"]
    return _path(project["entity"]["name"], project["name"], found["name"])


@as_service_error()
def find_sweep(path: str, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """(full path, configuration) of a sweep by `id`, `project/id` or `entity/project/id`.

    Raises:
        ConfigError: there is no such sweep, it has ended, or the key is not accepted.
    """
    *where, sweep_id = path.split("/")
    project = where.pop() if where else environ.get("WANDB_PROJECT") or PROJECT
    entity = where.pop() if where else environ.get("WANDB_ENTITY")
    found = _ask(GET_SWEEP, {"entity": entity, "project": project, "sweep": sweep_id}, environ)["project"]
    if not found or not found["sweep"]:
        raise ConfigError("no such sweep, as entity/project/id, and no such file", name="SWEEP", given=path)
    if (state := found["sweep"]["state"]) in ("FINISHED", "CANCELED", "CANCELLED"):
        raise ConfigError(f"is {state}: it gives no more trials, start another", name="SWEEP", given=path)
    full = _path(found["entity"]["name"], found["name"], found["sweep"]["name"])
    return full, parse_yaml(found["sweep"]["config"], f"SWEEP={path}", takes="a sweep", typed=True)


@as_service_error()
def register_agent(path: str, host: str, environ: Mapping[str, str]) -> str:
    """The agent's id. Raises ConfigError, ServiceError."""
    entity, project, sweep_id = path.split("/")
    asked = {"host": host, "entityName": entity, "projectName": project, "sweep": sweep_id}
    return str(_ask(CREATE_AGENT, asked, environ)["createAgent"]["agent"]["id"])


@as_service_error()
def heartbeat(agent: str, running: str | None, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The service's commands to the agent, whose trial is `running` (None: the agent asks for one).

    Raises:
        ConfigError: the key is not accepted.
        ServiceError: no answer, or an unreadable one.
    """
    states = json.dumps({running: True} if running else {})
    found = _ask(HEARTBEAT, {"id": agent, "metrics": "{}", "runState": states}, environ)["agentHeartbeat"]
    commands = list(parse_json(found["commands"]) or [])
    if not all(isinstance(command, dict) for command in commands):
        raise TypeError("a command is a mapping")
    return commands


def _path(*names: str) -> str:
    """entity/project/id, as the job's script will have it. Raises ValueError for names that are none."""
    if not all(name.isprintable() and "/" not in name and 0 < len(name) <= MOST_NAME for name in names):
        raise ValueError("no names of a sweep")
    return "/".join(names)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no server to another one: urllib would hand it the key."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(query: str, variables: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    key = environ.get(KEY)
    if not key:
        raise ConfigError(f"W&B is asked with {KEY}=: put it into .env")
    if is_placeholder(key):
        raise ConfigError(f"{KEY} {NOT_FILLED_IN}: put your key into .env")
    base = (environ.get("WANDB_BASE_URL") or DEFAULT_URL).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigError("is no http:// or https:// address", name="WANDB_BASE_URL", given=base)
    login = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{base}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    try:
        content = within(ANSWER_S, lambda: _answer(request))
        if len(content) > MOST_ANSWER_MIB * MIB:
            raise ServiceError(f"{base} answered with more than {MOST_ANSWER_MIB} MiB")
        found = parse_json(content.decode())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ConfigError(f"{base} does not take {KEY} ({error.code}): look it up there again") from None
        raise ServiceError(f"{base} answered {error.code} ({_said(error.reason)})") from None
    except ServiceError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServiceError(f"{base} cannot be reached ({_said(getattr(error, 'reason', error))})") from None
    if not isinstance(found, dict) or found.get("errors") or not isinstance(found.get("data"), dict):
        said = found.get("errors") if isinstance(found, dict) else found
        raise ServiceError(f"{base} refused: {' '.join(json.dumps(said).split())[:300]}")
    return dict(found["data"])


def _answer(request: urllib.request.Request) -> bytes:
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read(MOST_ANSWER_MIB * MIB + 1)
    return content


def _said(reason: object) -> str:
    """What a server says of itself, fit to be shown."""
    return printable(str(reason))[:200]
