"""In the place of a cluster: starts a manifest's containers with podman and applies the Job's own rules to their ends.

A test hands `run` a function that is called over and over. In it `disrupt` drains a pod as a node that is to be emptied
does, and `evict` ends it at once as a node without disk or memory does; `pods` and `ends` say what runs and how each
ended.

No API server, scheduler or kubelet takes part; kubelet.py starts the same containers for an API server's pods. What the
manifest says of command, arguments, environment, mounts, user, groups, capabilities, read-only root and grace period
holds; podFailurePolicy and backoffLimit are applied as the documentation of Jobs says. All pods share this machine's
network, so Service names are entries of /etc/hosts; limits of memory and CPU, priorities and node selection mean
nothing here, and the image is the one that was built, whatever its
name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import manifests

from trainer.supervise import TERMINATION_LOG

PATIENCE_S = 300
PLACE_ENV = "POD_PLACE"
Object = Mapping[str, Any]


@dataclass
class Pod:
    """One attempt at one index."""

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    place: Path
    """The pod's folder, which its processes have in their environment as PLACE_ENV."""
    disrupted: bool = False

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def left_behind(self) -> str:
        """The pod's termination message."""
        return (self.place / TERMINATION_LOG.name).read_text(errors="replace")

    def tell_to_end(self) -> None:
        self.process.send_signal(signal.SIGTERM)  # podman hands it on to the container's first process

    def kill(self, word: str = "") -> None:
        """As the kernel does that is out of memory: nothing of the container sees a signal. `word` selects its
        processes that have it on their command line."""
        marker = f"{PLACE_ENV}={self.place}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone by now
                is_its_own = marker in (path / "environ").read_bytes().split(b"\0")
                if is_its_own and word.encode() in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Containers:
    """Starts the container of a pod as its Job says."""

    image: str
    podman: str
    folder: Path
    """Holds `claim`, the claim's content, and what pods leave."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    more: Sequence[str] = ()
    """Further words for podman run."""

    def prepare(self) -> None:
        """Give the claim's content to the fsGroup, as the kubelet does."""
        (self.folder / "claim").mkdir(parents=True, exist_ok=True)
        subprocess.run(["chmod", "-R", "a+rwX", str(self.folder / "claim")], check=True)

    def start(self, job: Object, config_map: Object, index: int, name: str) -> Pod:
        """Start the pod with that index of the Job; `name` is the name of its folder."""
        place = self.folder / name
        place.mkdir()
        (place / TERMINATION_LOG.name).touch()
        (place / TERMINATION_LOG.name).chmod(0o666)
        log = place / "log"
        with log.open("wb") as file:
            command = self._command(job, config_map, index, place)
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        return Pod(index=index, process=process, log=log, place=place)

    def _command(self, job: Object, config_map: Object, index: int, place: Path) -> list[str]:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        whole, own = pod["securityContext"], container["securityContext"]
        name, nodes = job["metadata"]["name"], job["spec"].get("completions", 1)
        assert pod["restartPolicy"] == "Never"
        environment = self._environment(container)
        if job["spec"].get("completionMode") == "Indexed":
            environment["JOB_COMPLETION_INDEX"] = str(index)
        hosts = [f"{name}-{i}" for i in range(nodes)]
        known = [*hosts, *(f"{host}.{pod['subdomain']}" for host in hosts if "subdomain" in pod)]
        return [
            *(self.podman, "run", "--rm", "--passwd=false", "--read-only-tmpfs=false", "--pull=never"),
            *("--user", f"{whole['runAsUser']}:{whole['runAsGroup']}", "--group-add", str(whole["fsGroup"])),
            *(["--read-only"] if own["readOnlyRootFilesystem"] else []),
            *(f"--cap-drop={capability}" for capability in own["capabilities"]["drop"]),
            *([] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]),
            *(f"--add-host={host}:127.0.0.1" for host in known),
            *("--workdir", container["workingDir"], "--entrypoint", json.dumps(container["command"])),
            *(word for key, value in environment.items() for word in ("--env", f"{key}={value}")),
            *("--env", f"{PLACE_ENV}={place}"),
            *("--volume", f"{place / TERMINATION_LOG.name}:{TERMINATION_LOG}"),
            *self._mounts(pod, container, config_map, place),
            *self.more,
            self.image,
            *(expanded(word, environment) for word in container["args"]),
        ]

    def _environment(self, container: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for variable in container["env"]:
            if "value" in variable:
                found[variable["name"]] = expanded(variable["value"], found)
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            if reference["key"] in self.secrets:
                found[variable["name"]] = self.secrets[reference["key"]]
            assert reference["key"] in self.secrets or reference["optional"]
        return found

    def _mounts(self, pod: Object, container: Object, config_map: Object, place: Path) -> list[str]:
        sources = {volume["name"]: self._volume(volume, config_map, place) for volume in pod["volumes"]}
        words = []
        for mount in container["volumeMounts"]:
            source = sources[mount["name"]]
            if source is None:
                (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
                words += ["--shm-size", str(volume["emptyDir"]["sizeLimit"]).removesuffix("i").lower()]
                continue
            if sub := mount.get("subPath"):
                source = source / sub
                if not source.exists():
                    source.mkdir()
                    source.chmod(0o777)  # the kubelet gives it to the fsGroup
            words += ["--volume", f"{source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"]
        return words

    def _volume(self, volume: Object, config_map: Object, place: Path) -> Path | None:
        if "persistentVolumeClaim" in volume:
            return self.folder / "claim"
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            return None
        folder = place / str(volume["name"])
        folder.mkdir()
        folder.chmod(0o777)
        if "configMap" in volume:
            assert config_map["metadata"]["name"] == volume["configMap"]["name"]
            for key, text in config_map["data"].items():
                (folder / key).write_text(text)
        return folder


@dataclass
class JobRun:
    """A Job that is carried out, one pod an index."""

    text: str
    containers: Containers
    pods: list[Pod] = field(default_factory=list)
    ends: list[tuple[int, int, str]] = field(default_factory=list)
    """(index, exit code, what was done) of every pod that has ended, in order."""

    def __post_init__(self) -> None:
        objects = manifests.load(self.text)
        (self.job,) = [content for content in objects if content["kind"] == "Job"]
        (self.config_map,) = [content for content in objects if content["kind"] == "ConfigMap"]
        self.pod = self.job["spec"]["template"]["spec"]
        self.nodes = self.job["spec"].get("completions", 1)
        self.folder = self.containers.folder

    def run(self, watch: Callable[[JobRun], None] = lambda _: None) -> str:
        """Until the Job is Complete or Failed; returns the condition, with the reason of a failure.

        `watch` is called over and over meanwhile, and may disrupt.
        """
        deadline = time.monotonic() + PATIENCE_S
        left, failures = set(range(self.nodes)), 0
        self.containers.prepare()
        running = {index: self._start(index) for index in sorted(left)}
        try:
            while left:
                assert time.monotonic() < deadline, "\n".join(pod.said()[-3000:] for pod in self.pods)
                watch(self)
                time.sleep(0.1)
                for index, pod in list(running.items()):
                    code = pod.process.poll()
                    if code is None:
                        continue
                    action = "Succeeded" if code == 0 else self._action(code, pod.disrupted)
                    self.ends.append((index, code, action))
                    del running[index]
                    failures += action == "Count"
                    if action == "FailJob":
                        return "Failed: PodFailurePolicy"
                    if failures > self.job["spec"]["backoffLimit"]:
                        return "Failed: BackoffLimitExceeded"
                    if action == "Succeeded":
                        left.discard(index)
                    else:
                        running[index] = self._start(index)  # podReplacementPolicy Failed: after it has ended
            return "Complete"
        finally:
            for pod in running.values():
                self._end(pod)

    def disrupt(self, pod: Pod) -> None:
        """End the pod as a drained node does: it gets its condition, SIGTERM, and after the grace period SIGKILL."""
        pod.disrupted = True
        pod.tell_to_end()

    def evict(self, pod: Pod) -> None:
        """End the pod as a kubelet without disk or memory does: it gets its condition and SIGKILL."""
        pod.disrupted = True
        pod.kill()

    def _end(self, pod: Pod) -> None:
        pod.process.terminate()
        try:
            pod.process.wait(self.pod["terminationGracePeriodSeconds"])
        except subprocess.TimeoutExpired:
            pod.process.kill()
            pod.process.wait()

    def _action(self, code: int, disrupted: bool) -> str:
        """The action of the first rule that fits; Count if none does."""
        for rule in self.job["spec"]["podFailurePolicy"]["rules"]:
            conditions = [pattern["type"] for pattern in rule.get("onPodConditions", [])]
            if disrupted and "DisruptionTarget" in conditions:
                return str(rule["action"])
            codes = rule.get("onExitCodes")
            if codes and (code in codes["values"]) == (codes["operator"] == "In"):
                return str(rule["action"])
        return "Count"

    def _start(self, index: int) -> Pod:
        self.pods.append(self.containers.start(self.job, self.config_map, index, f"pod{len(self.pods)}"))
        return self.pods[-1]


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """The text as the kubelet expands it in arguments and values: $(NAME) where NAME is set, $$ to $."""

    def replaced(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)
