"""A node's part for the pods of api_server.py: podman runs their containers (pods.py), job_controller.py decides.

    with Kubelet.started(server, containers) as kubelet:
        ...  # what kubectl creates is carried out; logs, exec and ends are seen through the server

It starts the pods that are placed, hands on their output, says how they ended, with the termination message, and ends
what is deleted: SIGTERM, and SIGKILL after the grace period. `drain`, `evict` and `lose_node` are what nodes do to
pods. The waits between two attempts are a tenth of the real ones.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_server import ApiServer, Object
from job_controller import BACK_OFF_S, ENDED, INDEX, JOB_NAME, JobController
from pods import Containers, Pod

EVERY_S = 0.2


class _Files(Mapping[str, str]):
    """The files that a pod of ours sees below its working directory, which are the claim's."""

    def __init__(self, claim: Path) -> None:
        self.claim = claim

    def __getitem__(self, path: str) -> str:
        try:
            return (self.claim / path).read_text()
        except OSError as error:
            raise KeyError(path) from error

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(kw_only=True)
class Kubelet:
    """The kubelets of all nodes, and the controller, at the real time."""

    server: ApiServer
    containers: Containers
    controller: JobController
    running: dict[str, Pod] = field(default_factory=dict)
    """By the pod's name, those whose end was not told yet."""
    kill_at: dict[str, float] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Nodes that are lost."""
    error: BaseException | None = None

    @classmethod
    @contextlib.contextmanager
    def started(cls, server: ApiServer, containers: Containers) -> Iterator[Kubelet]:
        controller = JobController(server=server, now=time.time(), with_kubelet=True, back_off_s=BACK_OFF_S / 10)
        controller.starts = False
        kubelet, over = cls(server=server, containers=containers, controller=controller), threading.Event()
        for node in controller.nodes:
            kubelet.bring_back(node)

        def work() -> None:
            while not over.wait(EVERY_S):
                try:
                    kubelet.step()
                except BaseException as error:
                    kubelet.error = error
                    raise

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield kubelet
        finally:
            over.set()
            thread.join()
            for pod in kubelet.running.values():
                pod.kill()
                pod.process.wait()

    def step(self) -> None:
        with self.server.lock:
            self.controller.now = time.time()
            self.controller.step()
            there = {name: pod for (plural, _, name), pod in self.server.objects.items() if plural == "pods"}
            for name, pod in there.items():
                if name in self.running:
                    self._look_after(name, pod)
                elif "nodeName" in pod["spec"] and pod["status"]["phase"] == "Pending":
                    self._start(name, pod)
            for name in self.running.keys() - there.keys():  # deleted by force
                self.running.pop(name).kill()

    def drain(self, name: str, reason: str = "EvictionByEvictionAPI") -> None:
        """As `kubectl drain` and a preemption do: the pod is told to end."""
        with self.server.lock:
            pod = self.server.named("pods")[name]
            pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": reason}]
            self.controller.tell_to_end(name, pod["spec"]["terminationGracePeriodSeconds"])

    def evict(self, name: str) -> None:
        """As a node does that is short of disk: the pod ends at once, and stays as a failed one."""
        said = {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        with self.server.lock:
            self.server.named("pods")[name]["status"] |= {**said, "conditions": [condition]}
            self.running[name].kill()

    def lose_node(self, name: str) -> None:
        """The node of that pod loses its power."""
        with self.server.lock:
            node = self.server.named("pods")[name]["spec"]["nodeName"]
            self.silent.add(node)
            self.controller.lose_node(node)
            self.running[name].kill()

    def bring_back(self, node: str) -> None:
        with self.server.lock:
            self.silent.discard(node)
            self.server.add("nodes", node, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    def _start(self, name: str, pod: Object) -> None:
        job = self.server.named("jobs").get(pod["metadata"]["labels"][JOB_NAME])
        if job is None or pod["spec"]["nodeName"] in self.silent:
            return
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        config_map = self.server.named("configmaps")[volumes["config"]["configMap"]["name"]]
        index = int(pod["metadata"].get("annotations", {}).get(INDEX, 0))
        self.running[name] = self.containers.start(job, config_map, index, name)
        self.server.files["default", name] = _Files(self.containers.folder / "claim")  # type: ignore[assignment]
        pod["status"] = {"phase": "Running", "startTime": self._stamp()}

    def _look_after(self, name: str, pod: Object) -> None:
        mine = self.running[name]
        if pod["spec"]["nodeName"] in self.silent:
            return
        code = mine.process.poll()
        self.server.logs["default", name] = mine.said()
        if code is not None:
            del self.running[name]
            self._tell_end(pod, code, mine.left_behind())
        elif "deletionTimestamp" in pod["metadata"] and name not in self.kill_at:
            self.kill_at[name] = time.time() + pod["spec"]["terminationGracePeriodSeconds"]
            mine.tell_to_end()
        elif time.time() > self.kill_at.get(name, float("inf")):
            mine.kill()

    def _tell_end(self, pod: Object, code: int, message: str) -> None:
        state: dict[str, Any] = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message}
        ended = {"terminated": {**state, "finishedAt": self._stamp()}}
        pod["status"] |= {"phase": ENDED[not code], "containerStatuses": [{"name": "trainer", "state": ended}]}

    def _stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
