"""What is right about a manifest that no schema says, and the `restricted` Pod Security Standard, as lists of faults.

    faults(objects) + restricted(template_of(objects)) == []

The rules are the API server's own validation and the documentation's (Jobs, Services, labels, Pod Security
Standards), written down here because no API server is to be had. The official examples of 1.37 for `restricted` were
once held against them: 76 pods that it refuses, 23 that it takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
KEY_NAME = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
RECOMMENDED = ("name", "instance", "component", "managed-by", "version")
GPU = "nvidia.com/gpu"
QUEUE = "kueue.x-k8s.io/queue-name"
# Plain words that the reader of Kubernetes (YAML 1.1 with Go's numbers) does not take for text.
NOT_TEXT = re.compile(
    r"[-+]?(\d[\d_]*|0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\.inf)"
    r"|\.nan|y|n|yes|no|on|off|true|false|null|~||=|<<|\d{4}-\d\d?-\d\d?.*|[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?",
    re.IGNORECASE,
)
VOLUMES = (
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"),
    "secret",
)
SYSCTLS = (
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
    *("net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat"),
)
APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"
PROFILES = ("RuntimeDefault", "Localhost")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
Object = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def load(text: str) -> list[Object]:
    return list(yaml.load_all(text, Loader=LOADER))


def template_of(objects: list[Object]) -> Object:
    (job,) = [content for content in objects if content["kind"] == "Job"]
    return dict(job["spec"]["template"])


def pod_of(objects: list[Object]) -> Object:
    return dict(template_of(objects)["spec"])


def read_otherwise(text: str) -> list[str]:
    """Plain scalars in the text that PyYAML reads as text and Kubernetes would not."""
    return [
        token.value
        for token in yaml.scan(text, Loader=LOADER)
        if isinstance(token, yaml.ScalarToken)
        and token.plain
        and yaml.SafeLoader("").resolve(yaml.ScalarNode, token.value, (True, False)) == "tag:yaml.org,2002:str"
        and NOT_TEXT.fullmatch(token.value)
    ]


def faults(objects: list[Object], *, claim_access: str = "ReadWriteMany") -> list[str]:
    """Everything about the objects of one run that the API server or the cluster would stumble over."""
    return [
        *_naming(objects),
        *(fault for content in objects if content["kind"] == "Job" for fault in _job(content, objects)),
        *(fault for content in objects if content["kind"] == "Service" for fault in _service(content, objects)),
        *_claims(objects, claim_access),
    ]


def is_key(key: str) -> bool:
    """Whether the text is the key of a label, an annotation or a taint: a name, with or without a domain before it."""
    domain, slash, name = key.rpartition("/")
    return bool(KEY_NAME.fullmatch(name) and (not slash or SUBDOMAIN.fullmatch(domain)))


def _naming(objects: list[Object]) -> Iterator[str]:
    keys = [(content["kind"], content["metadata"]["name"]) for content in objects]
    if len(set(keys)) < len(keys):
        yield "two objects of one name"
    if len({content["metadata"].get("namespace") for content in objects}) > 1:
        yield "objects in different namespaces"
    for content in objects:
        kind, metadata = content["kind"], content["metadata"]
        pattern = {"Service": SERVICE, "Job": LABEL}.get(kind, SUBDOMAIN)
        if not pattern.fullmatch(metadata["name"]):
            yield f"{kind} name {metadata['name']}"
        template = content["spec"]["template"]["metadata"] if kind == "Job" else {}
        for part in (metadata, template):
            for key, value in part.get("labels", {}).items():
                if not is_key(key) or not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                    yield f"{kind} label {key}: {value}"
            for key, value in part.get("annotations", {}).items():
                if not is_key(key) or not isinstance(value, str):
                    yield f"{kind} annotation {key}"
        for name in RECOMMENDED:
            if f"app.kubernetes.io/{name}" not in metadata.get("labels", {}):
                yield f"{kind} without label app.kubernetes.io/{name}"


def _job(job: Object, objects: list[Object]) -> Iterator[str]:
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    indexed = spec.get("completionMode") == "Indexed"
    nodes = spec.get("completions", 1)
    if indexed and len(f"{job['metadata']['name']}-{nodes - 1}") > 63:
        yield "a pod's host name is longer than 63"
    if nodes != spec.get("parallelism", 1):
        yield "completions differ from parallelism: the nodes of one run start together"
    if nodes > 1 and not indexed:
        yield "several nodes without an index"
    if spec.get("suspend") and QUEUE not in job["metadata"].get("labels", {}):
        yield "suspended, and no queue would start it"
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"restartPolicy {pod.get('restartPolicy')}"
    if "podFailurePolicy" in spec:
        if pod.get("restartPolicy") != "Never":
            yield "podFailurePolicy without restartPolicy Never"
        if spec.get("podReplacementPolicy", "Failed") != "Failed":
            yield "podFailurePolicy without podReplacementPolicy Failed"
        for rule in spec["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes", {})
            if ("onExitCodes" in rule) == ("onPodConditions" in rule):
                yield "a rule takes exit codes or conditions"
            if codes and codes["operator"] == "In" and 0 in codes["values"]:
                yield "a rule on exit code 0"
            if codes and codes["values"] != sorted(set(codes["values"])):
                yield "exit codes that are not in order"
    services = {c["metadata"]["name"] for c in objects if c["kind"] == "Service"}
    if nodes > 1 and pod.get("subdomain") not in services:
        yield "several nodes without a Service of their subdomain"
    yield from _pod(pod)


def _pod(pod: Object) -> Iterator[str]:
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if len(set(volumes)) < len(volumes):
        yield "two volumes of one name"
    for volume in pod.get("volumes", []):
        if len(volume) != 2:
            yield f"volume {volume['name']} has not one source"
        if not LABEL.fullmatch(volume["name"]):
            yield f"volume name {volume['name']}"
    for key in (*pod.get("nodeSelector", {}), *(one["key"] for one in pod.get("tolerations", []) if "key" in one)):
        if not is_key(key):
            yield f"label {key} of nodes"
    named = [pod.get("priorityClassName", "x"), *(secret["name"] for secret in pod.get("imagePullSecrets", []))]
    named += [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    for name in named:
        if not SUBDOMAIN.fullmatch(name):
            yield f"{name}, which is no object's name"
    tolerated = {toleration.get("key") for toleration in pod.get("tolerations", [])}
    for container in pod["containers"]:
        requests, limits = (container["resources"].get(kind, {}) for kind in ("requests", "limits"))
        for name in {name for name in (*requests, *limits) if "/" in name}:
            if requests.get(name) != limits.get(name):
                yield f"{name}: requests differ from limits"
            if not re.fullmatch("[1-9][0-9]*", str(limits.get(name))):
                yield f"{name}: {limits.get(name)!r} is no whole number"
            if name == GPU and name not in tolerated:
                yield f"{name} without its toleration"
        if numbers := [name for name, amount in (*requests.items(), *limits.items()) if type(amount) is not str]:
            yield f"{', '.join(numbers)} as numbers: the server keeps text, and a repeated apply is a change"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(set(paths)) < len(paths):
            yield "two mounts at one path"
        for mount in container.get("volumeMounts", []):
            path, sub = mount["mountPath"], mount.get("subPath", "")
            if mount["name"] not in volumes:
                yield f"mount of {mount['name']}, which is no volume"
            if not path.startswith("/") or ":" in path or sub.startswith("/") or ".." in sub.split("/"):
                yield f"mount {path} of {sub}"
        names = [variable["name"] for variable in container.get("env", [])]
        if len(set(names)) < len(names):
            yield "an environment variable twice"
        for variable in container.get("env", []):
            if not ENV_NAME.fullmatch(variable["name"]):
                yield f"environment variable {variable['name']}"
            if ("value" in variable) == ("valueFrom" in variable):
                yield f"{variable['name']} has not one value"
            if re.search("TOKEN$|API_KEY$|PASSWORD$", variable["name"]) and "secretKeyRef" not in variable.get(
                "valueFrom", {}
            ):
                yield f"{variable['name']} is not from a Secret"


def _service(service: Object, objects: list[Object]) -> Iterator[str]:
    if service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
        yield "the Service is not headless, or hides pods that start"
    for job in (content for content in objects if content["kind"] == "Job"):
        if not service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items():
            yield "the Service does not select the pods"


def _claims(objects: list[Object], access: str) -> Iterator[str]:
    for job in (content for content in objects if content["kind"] == "Job"):
        if job["spec"].get("completions", 1) > 1 and access != "ReadWriteMany":
            yield f"several nodes on a claim that is {access}"
        maps = {c["metadata"]["name"] for c in objects if c["kind"] == "ConfigMap"}
        for volume in job["spec"]["template"]["spec"].get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"ConfigMap {volume['configMap']['name']} is not in the file"


def restricted(pod: Object) -> list[str]:
    """Faults of a pod, or of a template of pods, by the `restricted` Pod Security Standard of Kubernetes 1.37, with
    those of the baseline."""
    spec, annotations = pod["spec"], pod.get("metadata", {}).get("annotations", {})
    return [*_pod_unrestricted(spec), *_annotations_unrestricted(annotations), *_containers_unrestricted(spec)]


def _pod_unrestricted(pod: Object) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    if any(one["name"] not in SYSCTLS for one in pod.get("securityContext", {}).get("sysctls", [])):
        yield "sysctls"
    for volume in pod.get("volumes", []):
        if set(volume) > {"name"} and not any(kind in volume for kind in VOLUMES):  # a name alone is an emptyDir
            yield f"volume {volume['name']} of another kind"


def _annotations_unrestricted(annotations: Mapping[str, str]) -> Iterator[str]:
    """What stood in place of appArmorProfile before Kubernetes 1.30, and is still read."""
    for key, value in annotations.items():
        if key.startswith(APP_ARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/"):
            yield "appArmorProfile"


def _containers_unrestricted(pod: Object) -> Iterator[str]:
    whole = pod.get("securityContext", {})
    windows = pod.get("os", {}).get("name") == "windows"
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(group, []):
            own = container.get("securityContext", {})
            if not windows:
                yield from _linux_unrestricted(whole, own)
            yield from _user_unrestricted(whole, own)
            if own.get("privileged"):
                yield "privileged"
            if own.get("procMount", "Default") != "Default":
                yield "procMount"
            if any(port.get("hostPort") for port in container.get("ports", [])):
                yield "hostPort"
            if any(hosts_asked(container)):
                yield "host of a probe"


def _linux_unrestricted(whole: Object, own: Object) -> Iterator[str]:
    capabilities = own.get("capabilities", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in PROFILES:
        yield "seccompProfile"


def _user_unrestricted(whole: Object, own: Object) -> Iterator[str]:
    if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser", whole.get("runAsUser")) == 0:
        yield "runAsUser 0"
    for profile in (own.get("appArmorProfile"), whole.get("appArmorProfile")):
        if profile and profile.get("type") not in PROFILES:
            yield "appArmorProfile"
    options = {**whole.get("seLinuxOptions", {}), **own.get("seLinuxOptions", {})}
    if options.get("type", "") not in SELINUX or "user" in options or "role" in options:
        yield "seLinuxOptions"


def hosts_asked(container: Object) -> Iterator[str]:
    """The hosts that the node is told to ask about the container, in place of the pod's own address."""
    hooks = container.get("lifecycle", {})
    for handler in (
        *(container.get(name, {}) for name in PROBES),
        hooks.get("postStart", {}),
        hooks.get("preStop", {}),
    ):
        for kind in ("httpGet", "tcpSocket"):
            yield handler.get(kind, {}).get("host", "")


IMAGE = "registry.example.org/team/trainyard:0.1.0"
