"""Rules by which kube-apiserver refuses an object or a change of it, with its words, as far as our objects touch them:
names, labels, a Job's pods, and fields that never change. Rules and words were read in the sources of 1.36, in which
the limit of a label is in bytes, that of a name in characters; before 1.36 both were in characters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]
Fault = tuple[str, str]
"""The field, and what is wrong with it."""

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
SERVICE = r"[a-z]([-a-z0-9]*[a-z0-9])?"
VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
SUBDOMAIN_SAID = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
)
SERVICE_SAID = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    f"and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{SERVICE}')"
)
VALUE_SAID = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{VALUE}')"
)
IMMUTABLE = {
    "Job": ("completionMode", "completions", "podFailurePolicy", "backoffLimitPerIndex", "selector", "template"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "volumeMode", "volumeName"),
}
MOST_LABEL_BYTES, MOST_CHARS, MOST_NAME_CHARS = 63, 63, 253


def faults(content: Object) -> list[Fault]:
    """What the server refuses in a new object."""
    found = [*_name_faults(content), *_label_faults("metadata.labels", content["metadata"])]
    return found + (list(_job_faults(content)) if content["kind"] == "Job" else [])


def changed_faults(there: Object, changed: Object) -> list[Fault]:
    """What the server refuses in a change. The whole value stands in its words."""
    kind, before, after = there["kind"], there.get("spec", {}), changed.get("spec", {})
    found = [
        (f"spec.{name}", f"Invalid value: {json.dumps(after.get(name))}: field is immutable")
        for name in IMMUTABLE.get(kind, ())
        if before.get(name) != after.get(name)
    ]
    return found + _label_faults("metadata.labels", changed["metadata"])


def _name_faults(content: Object) -> list[Fault]:
    name, is_service = content["metadata"]["name"], content["kind"] == "Service"
    pattern, said = (SERVICE, SERVICE_SAID) if is_service else (SUBDOMAIN, SUBDOMAIN_SAID)
    most = MOST_CHARS if is_service else MOST_NAME_CHARS
    why = [] if re.fullmatch(pattern, name) else [said]
    why += [f"must be no more than {most} characters"] if len(name) > most else []
    return [("metadata.name", f'Invalid value: "{name}": {reason}') for reason in why]


def _label_faults(field: str, metadata: Object) -> list[Fault]:
    found = []
    for value in metadata.get("labels", {}).values():
        if len(value.encode()) > MOST_LABEL_BYTES:
            found.append((field, f'Invalid value: "{value}": must be no more than {MOST_LABEL_BYTES} bytes'))
        if not re.fullmatch(VALUE, value):
            found.append((field, f'Invalid value: "{value}": {VALUE_SAID}'))
    return found


def _job_faults(job: Object) -> Iterator[Fault]:
    spec, name = job["spec"], job["metadata"]["name"]
    pod = spec["template"].get("spec", {})
    # The server itself labels each pod with its Job's name.
    labelled = {"labels": {**spec["template"].get("metadata", {}).get("labels", {}), "job-name": name}}
    yield from _label_faults("spec.template.labels", labelled)
    policy, field = pod.get("restartPolicy", "Always"), "spec.template.spec.restartPolicy"
    if policy not in ("OnFailure", "Never"):
        yield field, 'Required value: valid values: "OnFailure", "Never"'
    elif policy != "Never" and "podFailurePolicy" in spec:
        yield field, f'Invalid value: "{policy}": only "Never" is supported when podFailurePolicy is specified'
    if spec.get("completionMode") == "Indexed":
        host = f"{name}-{spec.get('completions', 1) - 1}"
        if len(host) > MOST_CHARS or not re.fullmatch(LABEL, host):
            yield (
                "metadata.name",
                f'Invalid value: "{name}": will not able to create pod with invalid DNS label: {host}',
            )
