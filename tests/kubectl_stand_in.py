"""In the place of kubectl and a cluster, neither of which tests have: objects in a folder, exactly the calls that
`python -m k8s` makes, and a refusal of every other. It validates nothing; tests write status and pods themselves.

    KUBECTL_FOLDER=/tmp/x kubectl --namespace vision get jobs --selector a=b --output json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

FOLDER = Path(os.environ["KUBECTL_FOLDER"])
KINDS = {"configmap": "ConfigMap", "job": "Job", "pod": "Pod", "persistentvolumeclaim": "PersistentVolumeClaim"}
Object = dict[str, Any]


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(1)


def place(namespace: str, kind: str, name: str) -> Path:
    return FOLDER / namespace / kind / f"{name}.json"


def apply(namespace: str, *, rehearse: bool) -> None:
    for content in yaml.safe_load_all(sys.stdin):
        kind, metadata = content["kind"], content["metadata"]
        if (reason := FOLDER / f"refuse-{kind}{'' if rehearse else '-for-real'}").exists():
            fail(reason.read_text())
        path = place(metadata.get("namespace", namespace), kind, metadata["name"])
        there = json.loads(path.read_text()) if path.exists() else None
        if there and kind == "Job" and there["spec"]["template"] != content["spec"]["template"]:
            fail(f'The Job "{metadata["name"]}" is invalid: spec.template: field is immutable')
        group = "job.batch" if kind == "Job" else kind.lower()
        print(f"{group}/{metadata['name']} {'configured' if there else 'created'}{' (server dry run)' * rehearse}")
        if not rehearse:
            path.parent.mkdir(parents=True, exist_ok=True)
            stamp = f"2026-11-25T00:00:{len(list(FOLDER.rglob('*.json'))):02}Z"
            metadata["creationTimestamp"] = there["metadata"]["creationTimestamp"] if there else stamp
            path.write_text(json.dumps(content))


def selected(namespace: str, kind: str, selector: str) -> list[Object]:
    wanted = dict(part.split("=") for part in selector.split(","))
    found = [json.loads(path.read_text()) for path in sorted((FOLDER / namespace / kind).glob("*.json"))]
    return [content for content in found if wanted.items() <= content["metadata"].get("labels", {}).items()]


def main(words: list[str]) -> None:
    with (FOLDER / "calls").open("a") as file:
        print(*words, file=file)
    namespace = "default"
    if words[0] == "--namespace":
        namespace, words = words[1], words[2:]
    match words:
        case ["apply", "--filename", "-"]:
            apply(namespace, rehearse=False)
        case ["apply", "--dry-run=server", "--filename", "-"]:
            apply(namespace, rehearse=True)
        case ["get", kind, "--selector", selector, "--output", "json"]:
            print(json.dumps({"items": selected(namespace, KINDS[kind.removesuffix("s")], selector)}))
        case ["get", kind, name, "--ignore-not-found", "--output", "json"]:
            path = place(namespace, KINDS[kind], name)
            print(path.read_text() if path.exists() else "", end="")
        case ["get", kind, "--output", "json"]:
            path = FOLDER / f"{kind}.json"
            print(path.read_text()) if path.exists() else fail(f"the server doesn't have a resource type {kind}")
        case ["delete", "job", *names, "--wait=false"]:
            for name in names:
                place(namespace, "Job", name).unlink()
        case ["delete", "--filename", "-", "--ignore-not-found", "--wait=false"]:
            for content in yaml.safe_load_all(sys.stdin):
                metadata = content["metadata"]
                place(metadata.get("namespace", namespace), content["kind"], metadata["name"]).unlink(missing_ok=True)
        case ["logs", *flags]:
            (name,) = [word for word in flags if not word.startswith("-") and word != "trainer"]
            log = place(namespace, "Pod", name).with_suffix(".log")
            if not log.exists():
                fail(f'Error from server (BadRequest): container "trainer" in pod "{name}" is waiting to start')
            print(log.read_text(), end="")
        case _:
            fail(f"the stand-in does not know: kubectl {' '.join(words)}")


main(sys.argv[1:])
