"""`python -m k8s` with the real kubectl and an API server of our own: what is refused, made, found and said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import manifests
import pytest
import yaml
from api_server import KUEUE, RESOURCES, Refused
from kube import IMAGE, Cluster, k8s
from paths import ROOT
from programs import make, make_program
from specs import write_measured

from k8s.cluster.kubectl import Kubectl, KubectlError
from k8s.manifest.pod import GPU, SECRET_ENV
from k8s.manifest.site import CLUSTER_KEYS, SITE_KEYS
from planner.request.scheduler_values import quantity
from planner.request.variables import BY_NAME
from trainer.progress_file import Progress


@pytest.fixture
def cluster(checkout: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.started(checkout, tmp_path / "cluster") as started:
        yield started


BAD = [
    ([], "no image: IMAGE=registry/trainyard:tag, or image: in k8s/site.yaml"),
    (["--image", "a.sif"], "IMAGE=a.sif: pods cannot run a file"),
    (["--image", "./unpacked"], "IMAGE=./unpacked: pods cannot run a file"),
    (["--image", "a/b:1", "--mem", "none"], "MEM=none: a pod asks for its memory: leave MEM out, or give it in GiB"),
    ([*IMAGE, "--data", "/scratch/x.jsonl"], "DATA=/scratch/x.jsonl: pods see data/ and models/ in the claim"),
    ([*IMAGE, "--data", "records.jsonl"], "DATA=records.jsonl: pods see data/"),
    ([*IMAGE, "--model", "/no/such/gemma-3-4b-it"], "MODEL=/no/such/gemma-3-4b-it: pods see data/ and models/ in"),
    ([*IMAGE, "--model", "no such/gemma-3-4b-it"], "MODEL='no such/gemma-3-4b-it': pods see data/ and models/ in"),
    ([*IMAGE, "--output", "/scratch/runs"], "OUTPUT=/scratch/runs: runs live in the claim"),
    ([*IMAGE, "--output", "runs/../data"], "OUTPUT=runs/../data: runs live in the claim, in runs/: leave it out"),
    ([*IMAGE, "--config-file", "/etc/x.yaml"], "/etc/x.yaml"),
    ([*IMAGE, "--partition", "gpu"], "PARTITION=gpu: is for TO=slurm only, leave it out"),
    ([*IMAGE, "--environment", "HF_HOME=/scratch/hf"], "HF_HOME=/scratch/hf: pods see data/, models/ and runs/"),
    ([*IMAGE, "--environment", "TMPDIR=/scratch"], "ENVIRONMENT: TMPDIR is not to be set here: the pod has a writable"),
    ([*IMAGE, "--environment", "TRITON_CACHE_DIR=/x"], "TRITON_CACHE_DIR=/x: pods see data/, models/ and runs/"),
    ([*IMAGE, "--gpus", "8", "--mem", "1"], "MEM=1: the processes of a node alone take 12 GiB: try MEM=12 or more"),
    ([*IMAGE, "--size", "2Gi"], "SIZE=2Gi: is for make claim"),
    ([*IMAGE, "--environment", "HF_TOKEN=hf_x"], "ENVIRONMENT: HF_TOKEN holds a secret"),
    ([*IMAGE, "--namespace", "A_b"], "NAMESPACE=A_b: takes at most 63"),
    ([*IMAGE, "--gpus", "2", "--vram", "2"], "needs "),
    (
        [*IMAGE, "--gpus", "8", "--mem", "14"],
        "MEM=14: a pod of this run needs 15 GiB (3 GiB of /dev/shm count into it): try MEM=15",
    ),
    ([*IMAGE, "--site", "nowhere.yaml"], "SITE=nowhere.yaml: No such file"),
]


@pytest.mark.parametrize("verb", ["render", "submit"])
@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv[-2:]) for argv, _ in BAD])
def test_a_bad_request_is_one_line_and_78_and_the_cluster_is_not_asked(
    verb: str, argv: list[str], said: str, cluster: Cluster
) -> None:
    done = cluster.k8s(verb, *argv)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert said in done.stderr
    assert cluster.server.requests == []


def test_a_model_folder_of_this_machine_is_refused_unless_the_claim_has_it_too(checkout: Path) -> None:
    for name in ("mine", "models/mine"):
        write_measured(checkout / name, {"model_type": "gemma3"})
    done = k8s("render", *IMAGE, "--model", "mine", cwd=checkout)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("trainyard: MODEL=mine: a folder of this machine; pods see data/ and models/ in")
    assert k8s("render", *IMAGE, "--model", "models/mine", cwd=checkout).returncode == 0
    assert k8s("render", *IMAGE, "--model", "models/up/gemma-3-4b-it", cwd=checkout).returncode == 0  # known by name


SITES = [
    ("gpu_type: h200\ngpu_types: {a100: 80}", [], "GPU_TYPE=h200: not in mine.yaml: known are a100"),
    ("gpu_types: {a100: 80, l4: 24}", ["--vram", "141"], "VRAM=141: the largest GPU, a100, has 80 GiB in mine.yaml"),
    (
        "gpu_types: {a100: 80, l4: 24}",
        ["--gpu-type", "l4", "--vram", "80"],
        "VRAM=80: l4 has 24 GiB in mine.yaml: ask for at most that, or for more of them with GPUS=",
    ),
    ("volumes: {claim: a, mount: /out, read_only: false}", ["--output", "data"], "in runs/ (or below /out): leave"),
    ("pvc: runs\npvc_access: ReadWriteOnce", ["--nodes", "2"], "NODES=2: claim runs is ReadWriteOnce"),
    ("image_pull_secret: x", [], "unknown 'image_pull_secret', did you mean image_pull_secrets?"),
    ("partition: gpu", [], "mine.yaml: unknown 'partition'"),
    ("secret: hf_AbCdEfGhIjKlMnOpQr", [], "mine.yaml: secret: it holds a token"),
    ("environment: {WANDB_API_KEY: abc}", [], "ENVIRONMENT: WANDB_API_KEY holds a secret"),
    ("annotations: {example.org/api-key: abc}", [], "mine.yaml: annotations: api-key holds a secret"),
    ("pvc_access: RWX", [], "pvc_access: takes one of ReadWriteOnce, ReadWriteMany"),
    ("gpu_feature_discovery: maybe", [], "gpu_feature_discovery: takes one of true, false, got 'maybe'"),
    ("gpu_selectors: {a100: yes}", [], "gpu_selectors: takes lines of `label: value`"),
    ("node_selector: {a b: c}", [], "node_selector: 'a b' is no label"),
    ("node_selector: {a..b/c: d}", [], "node_selector: 'a..b/c' is no label"),
    ("node_selector: {a-.b/c: d}", [], "node_selector: 'a-.b/c' is no label"),
    ("priority_class: a..b", [], "priority_class: takes the name of an object"),
    ("volumes: {claim: a.-b, mount: /x}", [], "volumes: takes the name of an object"),
    ("node_selector: {a: ' '}", [], "node_selector: a takes at most 63"),
    ("tolerations: [{key: a, efect: NoSchedule}]", [], "tolerations: unknown 'efect'"),
    ("tolerations: [{key: a, operator: Exists, value: b}]", [], "tolerations: a value goes with operator Equal"),
    ("tolerations: [{operator: Equal, value: a}]", [], "tolerations: each has the key of a taint; without a key,"),
    (
        "tolerations: [{key: a, operator: Exists, tolerationSeconds: 5}]",
        [],
        "tolerationSeconds goes with effect NoExec",
    ),
    ("resources: {nvidia.com/mig-1g.10gb: 1}", [], "would come beside nvidia.com/gpu: gpu_resources: says which GPU_T"),
    ("gpu_resources: {a: gpu}", [], "gpu_resources: a takes a resource of the nodes, such as nvidia.com/mig-3g.40gb"),
    ("gpu_resources: [a]", [], "gpu_resources: takes lines of `GPU type: resource`"),
    ("tolerations: {key: a}", [], "tolerations: takes a list of mappings"),
    ("volumes: [{claim: a, mount: x}]", [], "volumes: mount takes an absolute path"),
    ("volumes: [{claim: a, mount: /workspace/x}]", [], "volumes: mount /workspace/x would hide"),
    ("volumes: [{claim: a}]", [], "volumes: takes a list of mappings with claim, mount"),
    ("volumes: [{claim: a, mount: /x}, {claim: b, mount: /x}]", [], "volumes: two of them have the same mount"),
    ("namespace: 'null'", [], "mine.yaml: NAMESPACE=null: give a name, or leave NAMESPACE out"),
    ("pvc: 'Nil'", [], "mine.yaml: PVC=Nil: give a name, or leave PVC out"),
    ("secret: 'null'", [], "mine.yaml: secret: 'null' is no name: give one, or remove the line"),
    ("priority_class: 'NULL'", [], "mine.yaml: priority_class: 'NULL' is no name"),
    ("image_pull_secrets: [a, '~']", [], "mine.yaml: image_pull_secrets: '~' is no name"),
    ("labels: {app.kubernetes.io/name: x}", [], "labels: app.kubernetes.io/name is set by trainyard or the cluster"),
    ("runtime_class: 'null'", [], "runtime_class: 'null' is no name"),
    ("scheduler_name: [a]", [], "scheduler_name: takes the name of an object"),
    ("resources: {memory: 4}", [], "resources: memory is said by MEM"),
    ("resources: {rdma: 1}", [], "resources: 'rdma' is no extended resource: example.org/name"),
    ("resources: {rdma/hca: 1.5}", [], "resources: rdma/hca takes a whole number"),
    ("resources: {kubernetes.io/x: 1}", [], "resources: kubernetes.io/x is a name that Kubernetes keeps for itself"),
    ("resources: {requests.a.b/c: 1}", [], "resources: requests.a.b/c is a name that Kubernetes keeps for itself"),
    ("labels: {job-name: x}", [], "labels: job-name is set by trainyard or the cluster"),
    ("labels: {trainyard-slot: x}", [], "labels: trainyard-slot is set by trainyard or the cluster"),
    ("ephemeral_storage: 50Gi", [], "ephemeral_storage: takes whole GiB, such as 50"),
    ("run_as_user: 0", [], "run_as_user: takes a uid above 0, at most 2147483647, or none where the cluster gives one"),
    ("run_as_user: 2147483648", [], "run_as_user: takes a uid above 0, at most 2147483647, or none where"),
    ("pod: {nodeSelector: {a: b}}", [], "pod: nodeSelector is said by node_selector:"),
    ("pod: {hostNetwork: true}", [], "pod: 'hostNetwork' is not taken, did you mean hostUsers? known are dnsConfig"),
    ("pod: {dnsPolcy: None}", [], "pod: 'dnsPolcy' is not taken, did you mean dnsPolicy?"),
    ("pod: {topologySpreadConstraints: [{maxSkew: x}]}", [], "pod: maxSkew takes a whole number"),
    ("pod: {hostUsers: maybe}", [], "pod: takes one of true, false, got 'maybe'"),
    ("queue: [a\n", [], "mine.yaml: is not YAML"),
]


@pytest.mark.parametrize(("text", "argv", "said"), SITES)
def test_a_site_file_is_checked_to_the_last_value(text: str, argv: list[str], said: str, cluster: Cluster) -> None:
    (cluster.checkout / "mine.yaml").write_text(text)
    done = cluster.k8s("render", *IMAGE, "--site", "mine.yaml", *argv)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert said in done.stderr
    assert not {"hf_AbCdEfGhIjKlMnOpQr", "abc"} & set(re.findall(r"\w+", done.stderr))


def test_the_example_shows_every_key_and_holds_when_uncommented(checkout: Path) -> None:
    text = (ROOT / "k8s" / "site.example.yaml").read_text()
    plain = re.sub(r"^# ?(?=[a-z_]+:|  )", "", text, flags=re.MULTILINE)
    (checkout / "mine.yaml").write_text(plain)
    assert set(yaml.safe_load(plain)) == {*SITE_KEYS, *CLUSTER_KEYS, "gpu_types"}
    assert {key.upper() for key in SITE_KEYS} <= set(BY_NAME)
    done = k8s("render", "--site", "mine.yaml", "--gpus", "4", cwd=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert manifests.faults(manifests.load(done.stdout)) == []


def test_rendering_twice_gives_the_same_bytes_and_another_site_another_run(checkout: Path) -> None:
    first, again = (k8s("render", *IMAGE, cwd=checkout).stdout for _ in range(2))
    (checkout / "k8s" / "site.yaml").write_text("priority_class: low\n")
    other = k8s("render", *IMAGE, cwd=checkout).stdout
    names = [manifests.load(text)[0]["metadata"]["name"] for text in (first, again, other)]
    assert first == again
    assert names[0] == names[1] != names[2]


def test_what_nothing_selects_is_said(checkout: Path) -> None:
    done = k8s("render", *IMAGE, "--gpu-type", "a100", "--nodes", "2", cwd=checkout)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "trainyard: nothing in the manifest asks for a100: the scheduler may take any; "
        "say gpu_feature_discovery: true or gpu_selectors: in k8s/site.yaml",
        "trainyard: claim trainyard must be ReadWriteMany for 2 nodes",
    ]


def test_with_feature_discovery_what_no_label_asks_for_is_said(checkout: Path) -> None:
    """It labels a card's memory, which is asked for, and its product, whose exact name only the site knows."""
    site = checkout / "k8s" / "site.yaml"
    site.write_text("gpu_feature_discovery: true\ngpu_selectors: {l4: {nvidia.com/gpu.product: NVIDIA-L4}, a100: {}}\n")
    argv = ("render", *IMAGE, "--gpu-type")
    assert [k8s("render", *IMAGE, cwd=checkout).stderr, k8s(*argv, "l4", cwd=checkout).stderr] == ["", ""]
    site.write_text(site.read_text().replace("a100", "h100"))
    assert k8s(*argv, "h100", cwd=checkout).stderr == (
        "trainyard: nothing in the manifest asks for h100, only for its memory: any GPU that holds as much may come; "
        "say gpu_selectors: {h100: {nvidia.com/gpu.product: ...}} in k8s/site.yaml, with the product that "
        "kubectl get nodes -L nvidia.com/gpu.product shows\n"
    )


def test_more_memory_than_a_gpu_type_has_is_said_unless_the_site_knows_it(checkout: Path) -> None:
    site = checkout / "k8s" / "site.yaml"
    site.write_text("gpu_selectors: {l4: {a: b}, a100: {a: b}, h100: {a: b}}\n")
    argv = ("render", *IMAGE, "--gpu-type")
    for kind, vram in (("l4", "24"), ("l4", "12"), ("a100", "80")):
        assert k8s(*argv, kind, "--vram", vram, cwd=checkout).stderr == ""
    assert k8s(*argv, "h100", "--vram", "94", cwd=checkout).stderr == (
        "trainyard: VRAM=94: h100 is known with 80 GiB: leave VRAM out, or if yours have more, "
        "say gpu_types: {h100: 94} in k8s/site.yaml\n"
    )
    site.write_text("gpu_types: {h100: 94}\ngpu_selectors: {h100: {a: b}}\n")
    assert k8s(*argv, "h100", "--vram", "94", cwd=checkout).stderr == ""


def test_a_file_of_settings_that_no_pod_can_mount_is_refused(checkout: Path) -> None:
    (checkout / "a:b.yaml").write_text("lora_r: 64\n")
    done = k8s("render", *IMAGE, "--config-file", "a:b.yaml", cwd=checkout)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == ("trainyard: CONFIG_FILE=a:b.yaml: pods mount no name with a colon: call it otherwise\n")


def test_settings_of_env_reach_the_pod_and_its_secrets_do_not(checkout: Path) -> None:
    secrets = "HF_TOKEN=hf_very_secret\nWANDB_API_KEY=key_very_secret\n"
    settings = "WANDB_PROJECT=games\nWANDB_NOTES=ask ada@lab.org\nWANDB_BASE_URL=https://very_secret@wandb.lab\n"
    (checkout / ".env").write_text(f"{secrets}{settings}HF_HOME=/mine\n")
    done = k8s("render", *IMAGE, cwd=checkout)
    assert "very_secret" not in done.stdout + done.stderr and "/mine" not in done.stdout
    env = manifests.pod_of(manifests.load(done.stdout))["containers"][0]["env"]
    assert {"name": "WANDB_PROJECT", "value": "games"} in env
    assert {"name": "WANDB_NOTES", "value": "ask ada@lab.org"} in env
    assert [entry["name"] for entry in env if "valueFrom" in entry] == list(SECRET_ENV)


def test_a_plan_needs_no_image(checkout: Path) -> None:
    plain, told = (k8s("plan", "--gpus", "2", *more, cwd=checkout) for more in ((), IMAGE))
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout == told.stdout


def test_the_claim_is_wide_for_several_nodes(checkout: Path) -> None:
    one, two = (k8s("claim", "--size", "200Gi", *more, cwd=checkout) for more in ((), ("--nodes", "2", "--pvc", "x")))
    specs = [yaml.safe_load(done.stdout) for done in (one, two)]
    assert [spec["metadata"]["name"] for spec in specs] == ["trainyard", "x"]
    assert [spec["spec"]["accessModes"] for spec in specs] == [["ReadWriteOnce"], ["ReadWriteMany"]]
    assert k8s("claim", cwd=checkout).stderr == "trainyard: claim: how large? make claim SIZE=200Gi\n"


def test_a_claim_is_as_the_site_file_says_unless_it_was_asked_for_otherwise(checkout: Path) -> None:
    site = "pvc: runs\npvc_access: ReadWriteMany\nstorage_class: nfs\nnamespace: vision\ngpu_type: a100\n"
    (checkout / "mine.yaml").write_text(site)
    words = ("claim", "--size", "2TB", "--site", "mine.yaml")
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "runs", "labels": {"app.kubernetes.io/name": "trainyard"}, "namespace": "vision"},
        "spec": {
            "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
            "resources": {"requests": {"storage": "2Ti"}},
        },
    }  # fmt: skip
    assert yaml.safe_load(k8s(*words, cwd=checkout).stdout) == made
    other = yaml.safe_load(k8s(*words, "--pvc", "x", "--namespace", "mine", cwd=checkout).stdout)
    assert (other["metadata"]["name"], other["metadata"]["namespace"]) == ("x", "mine")
    # What the file says of access is said of its own claim.
    assert other["spec"] == {**made["spec"], "accessModes": ["ReadWriteOnce"]}


def test_what_does_not_concern_a_claim_is_refused(checkout: Path) -> None:
    done = k8s("claim", "--size", "200Gi", "--gpus", "2", cwd=checkout)
    said = "trainyard: GPUS=2: only SIZE, PVC, NODES, NAMESPACE, SITE count here, leave it out\n"
    assert (done.returncode, done.stdout, done.stderr) == (78, "", said)


@pytest.mark.parametrize(("text", "size"), [("200Gi", "200Gi"), ("200G", "200Gi"), ("2TB", "2Ti"), ("512MiB", "512Mi")])
def test_a_size_is_taken_as_people_write_it(text: str, size: str) -> None:
    assert quantity("SIZE", text) == size


def test_a_size_without_a_unit_is_refused(checkout: Path) -> None:
    done = k8s("claim", "--size", "200", cwd=checkout)
    assert (done.returncode, done.stderr) == (78, "trainyard: SIZE=200: takes a size in Mi, Gi or Ti: 200Gi\n")


def test_submit_creates_what_render_prints_and_says_what_to_type_next(cluster: Cluster) -> None:
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert done.returncode == 0, done.stderr
    rendered = {c["metadata"]["name"]: c for c in manifests.load(cluster.k8s("render", *IMAGE, "--run", "mine").stdout)}
    (job,) = cluster.objects("jobs").values()
    assert job["spec"] == rendered["gemma-3-4b-it-mine"]["spec"]
    assert done.stdout.splitlines()[-8:] == [
        "job id  gemma-3-4b-it-mine",
        "run id  mine",
        "result  runs/mine/adapter in claim trainyard when it is done",
        "",
        "status  make status TO=k8s RUN=mine",
        "follow  make logs TO=k8s RUN=mine",
        "cancel  make cancel TO=k8s RUN=mine    (or kubectl delete job gemma-3-4b-it-mine)",
        "resume  make resume TO=k8s RUN=mine    (once it has ended unfinished)",
    ]
    asked = ["POST configmaps", "POST jobs"]
    assert cluster.requests() == [*(f"{request} (dry run)" for request in (*asked, "POST pods")), *asked]


@pytest.mark.slow
def test_a_run_in_another_namespace_is_told_of_with_it(cluster: Cluster) -> None:
    cluster.put("namespaces", "vision", {})
    cluster.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteOnce"]}}, "vision")
    done = cluster.k8s("submit", *IMAGE, "--run", "mine", "--namespace", "vision")
    assert done.returncode == 0, done.stderr
    words = "TO=k8s RUN=mine NAMESPACE=vision"
    assert "job id  gemma-3-4b-it-mine in vision" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-2] == (
        f"cancel  make cancel {words}    (or kubectl -n vision delete job gemma-3-4b-it-mine)"
    )
    assert (cluster.objects("jobs"), cluster.k8s("list").stdout) == ({}, "no run in this namespace\n")
    assert cluster.k8s("cancel", "--namespace", "vision").stdout == (
        f"cancelled job gemma-3-4b-it-mine of run mine; make resume {words} starts it again\n"
    )


def test_a_run_is_never_written_over(cluster: Cluster) -> None:
    assert cluster.k8s("submit", *IMAGE, "--run", "mine").returncode == 0
    done = cluster.k8s("submit", *IMAGE, "--run", "mine")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "trainyard: RUN=mine: exists in this namespace: give another RUN, or none for a new one\n"


def test_a_claim_that_is_missing_or_too_narrow_is_said_before_anything_is_applied(cluster: Cluster) -> None:
    done = cluster.k8s("submit", *IMAGE, "--pvc", "other")
    assert (done.returncode, done.stdout) == (78, "")
    assert "PVC=other: no such claim in the namespace: make claim TO=k8s PVC=other SIZE=200Gi" in done.stderr
    done = cluster.k8s("submit", *IMAGE, "--nodes", "2")
    assert (done.returncode, done.stdout) == (78, "")
    assert "NODES=2: claim trainyard is ReadWriteOnce (as the cluster says)" in done.stderr
    # A claim's access cannot be changed: the command makes another.
    assert "(make claim TO=k8s PVC=trainyard-wide NODES=2 SIZE=200Gi), or NODES=1" in done.stderr
    claim = cluster.objects("persistentvolumeclaims")["trainyard"]
    for change, said in (({"deletionTimestamp": "x"}, "is being deleted"), ({}, "has lost its volume")):
        cluster.put("persistentvolumeclaims", "old", {**claim, "metadata": change, "status": {"phase": "Lost"}})
        done = cluster.k8s("submit", *IMAGE, "--pvc", "old")
        assert (done.returncode, done.stdout) == (78, "")
        assert f"PVC=old: this claim {said}: PVC= another (make claim TO=k8s PVC=old-2 SIZE=200Gi)" in done.stderr
    cluster.put("namespaces", "vision", {})
    done = cluster.k8s("submit", *IMAGE, "--nodes", "2", "--namespace", "vision")
    assert (done.returncode, done.stdout) == (78, "")
    assert "make claim TO=k8s NAMESPACE=vision PVC=trainyard NODES=2 SIZE=200Gi prints one" in done.stderr
    assert (cluster.objects("jobs"), cluster.objects("configmaps")) == ({}, {})


@pytest.mark.parametrize("when", [" (dry run)", ""])
def test_what_the_cluster_refuses_leaves_nothing_behind(when: str, cluster: Cluster) -> None:
    said = 'jobs.batch "x" is forbidden: exceeded quota: team, requested: count/jobs.batch=1, used: 5, limited: 5'
    cluster.server.refusals[f"POST jobs{when}"] = Refused(403, "Forbidden", said)
    done = cluster.k8s("submit", *IMAGE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        'trainyard: kubectl create failed: Error from server (Forbidden): error when creating "STDIN": ' + said
    )
    assert (cluster.objects("jobs"), cluster.objects("configmaps")) == ({}, {})


def test_check_says_what_the_api_server_would_do_and_applies_nothing(cluster: Cluster) -> None:
    done = cluster.k8s("check", *IMAGE, "--run", "mine")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "kubectl  configmap/gemma-3-4b-it-mine created (server dry run)",
        "kubectl  job.batch/gemma-3-4b-it-mine created (server dry run)",
    ]
    assert cluster.objects("jobs") == {}


def test_without_kubectl_render_works_and_submit_says_so(checkout: Path, tmp_path: Path) -> None:
    assert k8s("render", *IMAGE, cwd=checkout, PATH=str(tmp_path)).returncode == 0
    done = k8s("submit", *IMAGE, cwd=checkout, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.endswith("no kubectl on PATH: make render TO=k8s prints the manifest without it\n")


@pytest.mark.slow
def test_status_follows_a_run_to_its_end(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    name = "gemma-3-4b-it-mine"
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
    cluster.pod(name, "p0", None, phase="Pending", containerStatuses=[waiting])
    assert f"job    {name} PENDING (ImagePullBackOff)" in cluster.k8s("status", "--run", "mine").stdout
    cluster.pod(name, "p0", "step  9/20  loss 1.5\n")  # nothing is read from it
    assert "step   none yet" in cluster.k8s("status").stdout.splitlines()
    now = time.time()
    progress = Progress(
        phase="training", step=2, of=20, loss=0.5, step_at=now - 130, seconds_per_step=600, written_at=now
    )
    cluster.pod(name, "p0", "step  9/20  loss 1.5\n", progress=progress)
    lines = re.sub(r", [0-9:]+ of", ", 0:05 of", cluster.k8s("status").stdout).splitlines()
    assert lines == [
        "run    mine",
        f"job    {name} RUNNING on gpu-7, 0:05 of 12:00:00",
        "step   2 of 20, 2 min ago, about 2 h 57 min left",
        "phase  training, loss 0.5000, seconds a step 600",
        "files  claim trainyard, runs/mine, no adapter yet",
        "next   make logs TO=k8s RUN=mine (follows it; make cancel TO=k8s RUN=mine ends it)",
    ]
    ended = replace(progress, phase="finished", step=20, step_at=now - 3 * 86400)
    cluster.pod(name, "p0", "", phase="Succeeded", progress=ended)
    cluster.end(name, "Complete")
    assert cluster.k8s("status", "--run", "mine").stdout.splitlines()[1:] == [
        f"job    {name} COMPLETED",
        "step   20 of 20, 3 d 0 h ago",
        "files  claim trainyard, runs/mine, adapter, report.html",
        "next   mount the claim and open runs/mine/report.html",
    ]
    assert cluster.k8s("list").stdout.splitlines()[-1].split() == ["mine", name, "COMPLETED", "20/20", "-", "yes"]


@pytest.mark.slow
def test_logs_are_all_attempts_of_the_first_node_and_the_others_last_words(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    name = "gemma-3-4b-it-mine"
    cluster.pod(name, "a", "first attempt\n", phase="Failed")
    cluster.pod(name, "b", "second attempt\n", phase="Failed")
    cluster.pod(name, "c", "the other node\n", phase="Failed", index="1")
    cluster.end(name, "Failed", "BackoffLimitExceeded")
    done = cluster.k8s("logs", "--run", "mine")
    assert done.stdout == "first attempt\nsecond attempt\n-- c\nthe other node\n"
    kept = "the logs of all attempts, also of pods that are gone: claim trainyard, runs/mine/logs"
    assert done.stderr == f"trainyard: job {name} FAILED (BackoffLimitExceeded)\ntrainyard: {kept}\n"


@pytest.mark.slow
def test_a_cancelled_run_is_resumed_as_a_new_job_of_the_same_run(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine", "--environment", "NCCL_DEBUG=INFO,A=1")
    refused = cluster.k8s("resume", "--run", "mine")
    assert (refused.returncode, refused.stdout) == (78, "")
    assert "job gemma-3-4b-it-mine of run mine is PENDING: make cancel TO=k8s RUN=mine ends it" in refused.stderr
    done = cluster.k8s("cancel", "--run", "mine")
    assert done.stdout == (
        "cancelled job gemma-3-4b-it-mine of run mine; make resume TO=k8s RUN=mine starts it again\n"
    )
    assert cluster.objects("jobs") == {}
    assert "gemma-3-4b-it-mine CANCELLED (at 20" in cluster.k8s("status", "--run", "mine").stdout
    cluster.server.resources = (*RESOURCES, *KUEUE)
    cluster.put("localqueues", "night", {})
    done = cluster.k8s("resume", "--run", "mine", "--time", "2h", "--queue", "night", "--environment", "A=2")
    assert done.returncode == 0, done.stderr
    (job,) = cluster.objects("jobs").values()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["metadata"]["name"] == "gemma-3-4b-it-mine--2"
    assert job["metadata"]["labels"][manifests.QUEUE] == "night"
    assert {"name": "TRAINYARD_TIME_LIMIT_S", "value": "7200"} in container["env"]
    # What is given anew adds to the run's own.
    assert {"name": "A", "value": "2"} in container["env"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    assert container["args"][container["args"].index("--run_id") + 1] == "mine"
    (config_map,) = cluster.objects("configmaps").values()
    assert json.loads(config_map["data"]["run.json"])["job_ids"] == ["gemma-3-4b-it-mine", "gemma-3-4b-it-mine--2"]


@pytest.mark.slow
def test_a_resumed_run_is_in_no_other_runs_way(cluster: Cluster) -> None:
    for run in ("x", "x-r2", "x--2"):
        assert cluster.k8s("submit", *IMAGE, "--run", run).returncode == 0
    assert cluster.k8s("cancel", "--run", "x").returncode == 0
    done = cluster.k8s("resume", "--run", "x")
    assert done.returncode == 0, done.stderr
    states = [cluster.k8s("status", "--run", run).stdout.count("PENDING") for run in ("x", "x-r2", "x--2")]
    assert (states, len(cluster.objects("jobs"))) == ([1, 1, 1], 3)


@pytest.mark.slow
def test_a_run_whose_pod_is_still_saving_is_not_resumed(cluster: Cluster) -> None:
    """kubectl deletes a Job at once, and its pods as they end: two would write one run's checkpoints."""
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    cluster.pod("gemma-3-4b-it-mine", "mine-x", "step 3/9\n")
    assert cluster.k8s("cancel", "--run", "mine").returncode == 0
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, done.stdout, cluster.objects("jobs")) == (78, "", {})
    assert done.stderr == (
        "trainyard: pod mine-x of run mine still writes its checkpoints: try again when it has gone "
        "(kubectl get pods --watch --selector app.kubernetes.io/instance=mine)\n"
    )
    del cluster.server.objects["pods", "default", "mine-x"]
    assert cluster.k8s("resume", "--run", "mine").returncode == 0


@pytest.mark.slow
def test_a_finished_run_is_not_resumed(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    cluster.end("gemma-3-4b-it-mine", "Complete")
    done = cluster.k8s("resume", "--run", "mine")
    assert (done.returncode, done.stdout) == (78, "")
    assert "run mine is finished (claim trainyard, runs/mine): make submit TO=k8s starts another" in done.stderr


@pytest.mark.slow
def test_an_unknown_run_is_said_with_those_there_are(cluster: Cluster) -> None:
    done = cluster.k8s("status", "--run", "x")
    assert done.stderr.startswith("trainyard: no run in this namespace: make submit TO=k8s starts one")
    cluster.k8s("submit", *IMAGE, "--run", "mine-1")
    cluster.k8s("submit", *IMAGE, "--run", "mine-2")
    done = cluster.k8s("cancel", "--run", "mine-3")
    assert (done.returncode, done.stderr) == (
        78,
        "trainyard: RUN=mine-3: no such run, did you mean mine-1? known are mine-2, mine-1\n",
    ) or "did you mean mine-2?" in done.stderr
    assert "which of 2 runs? say RUN= one of mine-2, mine-1" in cluster.k8s("cancel").stderr


@pytest.mark.slow
def test_a_config_map_that_names_another_runs_job_ends_nothing(cluster: Cluster) -> None:
    grid = ("--grid", "SEED=1,2", "--run", "seeds")
    assert cluster.k8s("submit", *IMAGE, "--run", "theirs").returncode == 0
    assert cluster.k8s("sweep", *IMAGE, *grid).returncode == 0
    maps = cluster.objects("configmaps")
    theirs = next(name for name in maps if name.endswith("theirs"))
    for name in maps:
        if name != theirs:
            record = json.loads(maps[name]["data"]["run.json"])
            maps[name]["data"]["run.json"] = json.dumps({**record, "job_ids": ["gemma-3-4b-it-theirs"]})
    for run in ("seeds-0", "seeds"):  # one is found by its label, all are found together
        done = cluster.k8s("cancel", "--run", run)
        assert (done.returncode, "has no job that is pending or running" in done.stdout) == (0, True)
        assert "PENDING" not in cluster.k8s("status", "--run", run).stdout
    assert "gemma-3-4b-it-theirs" in cluster.objects("jobs")
    # A record that is another run's: acted on by its label, it would end that run.
    seeds = next(name for name in maps if name.endswith("seeds-0"))
    maps[seeds]["data"] = maps[theirs]["data"]
    done = cluster.k8s("cancel", "--run", "seeds-0")
    assert (done.returncode, done.stdout) == (78, "")
    ends = "kubectl delete job --selector app.kubernetes.io/instance=seeds-0 ends its job"
    assert done.stderr == f"trainyard: ConfigMap {seeds}: run_id is 'theirs', its label says 'seeds-0'; {ends}\n"
    assert "gemma-3-4b-it-theirs" in cluster.objects("jobs")


@pytest.mark.slow
def test_a_config_map_without_its_run_json_is_listed_and_its_job_can_be_ended(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    ((name, content),) = cluster.objects("configmaps").items()
    del content["data"]["run.json"]
    done = cluster.k8s("cancel", "--run", "mine")
    ends = "kubectl delete job --selector app.kubernetes.io/instance=mine"
    assert (done.returncode, done.stderr) == (78, f"trainyard: ConfigMap {name} lacks run.json; {ends} ends its job\n")
    assert cluster.k8s("list").stdout.splitlines()[1].split() == ["mine", "-", "BROKEN", "-", "-", "-"]
    assert cluster.kubectl(*ends.split()[1:]).returncode == 0
    assert cluster.objects("jobs") == {}


@pytest.mark.slow
def test_a_run_json_in_strange_hands_is_one_line(cluster: Cluster) -> None:
    cluster.k8s("submit", *IMAGE, "--run", "mine")
    ((name, content),) = cluster.objects("configmaps").items()
    no_job = json.dumps({**json.loads(content["data"]["run.json"]), "job_ids": []})
    for text in ("no json", "[]", "{}", '{"spec": {"gpus": "2"}, "job_ids": ["a"]}', no_job):
        content["data"]["run.json"] = text
        done = cluster.k8s("status", "--run", "mine")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
        assert done.stderr.startswith(f"trainyard: ConfigMap {name}: ")
    cluster.k8s("submit", *IMAGE, "--run", "other")
    listed = cluster.k8s("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0::2][:2] for line in listed.stdout.splitlines()[1:]] == [
        ["other", "PENDING"],
        ["mine", "BROKEN"],
    ]


def put_nodes(cluster: Cluster, nodes: list[dict[str, Any]]) -> None:
    for i, content in enumerate(nodes):
        cluster.put("nodes", f"n{i}", content)


def node(product: str, mib: str, gpus: str) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": mib} if product else {}
    return {"metadata": {"labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}


def test_a_drafted_site_file_holds_what_the_nodes_say_and_can_be_used(cluster: Cluster) -> None:
    nodes = [
        node("NVIDIA-A100-SXM4-40GB", "39538", "8"),
        node("NVIDIA-A100-SXM4-40GB", "39538", "8"),
        node("NVIDIA-L4", "23034", "4"),
        node("Tesla-V100-SXM2-32GB", "32510", "4"),
        node("", "", "0"),
    ]
    put_nodes(cluster, nodes)
    cluster.put("persistentvolumeclaims", "trainyard", {"spec": {"accessModes": ["ReadWriteMany"]}})
    done = cluster.k8s("site")
    assert (done.returncode, done.stderr) == (0, "")
    assert "#   NVIDIA-A100-SXM4-40GB  39538            8      2\n" in done.stdout
    assert "# v100: no bfloat16, which training needs\n" in done.stdout
    assert "# queue: team-a  # no queue of Kueue here\n" in done.stdout
    assert yaml.safe_load(done.stdout) == {
        "gpu_feature_discovery": True,
        "gpu_types": {"a100": 40, "l4": 24},
        "gpu_selectors": {
            "a100": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"},
            "l4": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        },
        "pvc_access": "ReadWriteMany",
    }
    (cluster.checkout / "k8s" / "site.yaml").write_text(done.stdout)
    assert cluster.k8s("render", *IMAGE, "--gpu-type", "l4").stderr == ""


def test_a_site_file_of_a_mixed_cluster_names_whole_cards_apart(cluster: Cluster) -> None:
    """Slices and shared cards are shown, and never taken for the card."""
    nodes = [
        {
            "metadata": {"labels": {f"{GPU}.product": product, f"{GPU}.memory": mib}},
            "status": {"allocatable": {GPU: "8"}},
        }
        for product, mib in (
            ("NVIDIA-A100-SXM4-80GB-SHARED", "81920"),
            ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "9728"),
            ("NVIDIA-A100-SXM4-80GB", "81920"),
            ("NVIDIA-A100-PCIE-40GB", "39538"),
            ("Tesla-V100-SXM2-16GB", "16384"),
            ("Tesla-V100-SXM2-32GB", "32510"),
        )
    ]
    mixed = "nvidia.com/mig-3g.40gb"
    labels = {f"{mixed}.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", f"{mixed}.memory": "40192"}
    nodes.append({"metadata": {"labels": labels}, "status": {"allocatable": {mixed: "2", GPU: "0"}}})
    put_nodes(cluster, nodes)
    text = cluster.k8s("site").stdout
    assert "#   NVIDIA-A100-SXM4-80GB-MIG-1g.10gb   9728            8      1\n" in text
    assert "# v100: no bf" in text and "# tesla-v100-sxm2-32gb: no bf" in text
    assert yaml.safe_load(text) == {
        "gpu_feature_discovery": True,
        "gpu_types": {"a100": 40, "nvidia-a100-sxm4-80gb": 80, "a100-3g.40gb": 40},
        "gpu_resources": {"a100-3g.40gb": mixed},
        "gpu_selectors": {
            "a100": {f"{GPU}.product": "NVIDIA-A100-PCIE-40GB"},
            "nvidia-a100-sxm4-80gb": {f"{GPU}.product": "NVIDIA-A100-SXM4-80GB"},
            "a100-3g.40gb": {f"{mixed}.product": "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb"},
        },
        "pvc_access": "ReadWriteOnce",
    }
    (cluster.checkout / "k8s" / "site.yaml").write_text(text)
    done = cluster.k8s("render", *IMAGE, "--gpu-type", "nvidia-a100-sxm4-80gb")
    assert (done.returncode, done.stderr) == (0, "")
    done = cluster.k8s("render", *IMAGE, "--gpu-type", "a100-3g.40gb")
    assert (done.returncode, done.stderr, f'            {mixed}: "1"\n' in done.stdout) == (0, "", True)


def test_a_cluster_that_does_not_answer_is_one_line(cluster: Cluster) -> None:
    """kubectl logs the same five times before it says it."""
    kubeconfig = Path(cluster.environ["KUBECONFIG"])
    kubeconfig.write_text(kubeconfig.read_text().replace(f":{cluster.server.port}", ":1"))
    words = "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?"
    done = cluster.k8s("list")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"trainyard: kubectl get failed: {words}\n")


@pytest.mark.parametrize("answer", ["please log in", "[1]", "{}", ""])
def test_an_answer_of_kubectl_that_is_no_list_is_one_line(answer: str, cluster: Cluster) -> None:
    """What a wrapper in kubectl's place says, before a person has logged in."""
    (cluster.bin / "kubectl").unlink()
    (cluster.bin / "kubectl").write_text(f"#!/bin/sh\necho '{answer}'\necho\n")
    (cluster.bin / "kubectl").chmod(0o755)
    for argv in (["list"], ["site"], ["status", "--run", "mine"]):
        done = cluster.k8s(*argv)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"trainyard: kubectl get said {answer!r}, which is not the JSON asked for\n"


def test_a_kubectl_that_hangs_or_lists_no_objects_is_one_line(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that logs a person in may wait for ever."""
    monkeypatch.setattr("k8s.cluster.kubectl.PROGRAM_S", 1)
    (cluster.bin / "kubectl").unlink()
    for script, said in (
        ("exec sleep 20", "kubectl get did not answer in 1 s"),
        ("""echo '{"items": [1]}'""", "kubectl get said something that is no list of objects: does a kubectl of"),
        ("""echo '{"items": 5}'""", "kubectl get said something that is no list of objects: does a kubectl of"),
    ):
        (cluster.bin / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
        (cluster.bin / "kubectl").chmod(0o755)
        done = cluster.k8s("list")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith(f"trainyard: {said}")


@pytest.mark.parametrize(("verb", "patience_s"), [("get", 300), ("create", 300), ("logs", 300), ("exec", 15)])
def test_a_login_has_five_minutes_and_a_program_in_a_pod_a_quarter_of_one(
    verb: str, patience_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(str(tmp_path), "kubectl", "exec sleep 20")
    real = subprocess.run

    def a_thousandth(*words: Any, timeout: float, **options: Any) -> Any:
        return real(*words, timeout=timeout / 1000, **options)

    monkeypatch.setattr("k8s.cluster.kubectl.subprocess.run", a_thousandth)
    with pytest.raises(KubectlError) as caught:
        Kubectl(environ={"PATH": f"{tmp_path}:{os.environ['PATH']}"}).run(verb)
    assert str(caught.value) == f"kubectl {verb} did not answer in {patience_s} s"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.yaml", "image_root: /scratch/frames\n"),
        ("train.yaml", "init_adapter: ../runs/old\n"),
        (".env", "IMAGE_ROOT=/scratch/frames\n"),
    ],
)
def test_folders_of_this_machine_in_settings_are_refused(name: str, text: str, checkout: Path) -> None:
    (checkout / name).write_text(text)
    argv = ["render", *IMAGE, *(["--config-file", name] if name == "train.yaml" else [])]
    done = k8s(*argv, cwd=checkout)
    assert (done.returncode, done.stdout) == (78, "")
    said = text.strip().replace(": ", "=")
    assert done.stderr == (f"trainyard: {said}: pods see data/, models/ and runs/ in the claim: give a folder there\n")
    (checkout / name).write_text(text.replace("/scratch/", "data/").replace("../runs", "runs"))
    assert k8s(*argv, cwd=checkout).returncode == 0


@pytest.mark.slow
def test_make_dispatches_by_name(cluster: Cluster) -> None:
    """`submit` makes no environment of the checkout's: pods bring their own."""
    image = f"IMAGE={IMAGE[1]}"
    tools = cluster.environ
    shutil.rmtree(cluster.checkout / ".venv" / "cpu")
    rendered = make(cluster.checkout, "render", "TO=k8s", "GPUS=4", image, "RUN=mine")
    assert rendered.returncode == 0
    assert manifests.faults(manifests.load(rendered.stdout)) == []
    assert yaml.safe_load(make(cluster.checkout, "claim", "SIZE=2Gi").stdout)["kind"] == "PersistentVolumeClaim"
    done = make(cluster.checkout, "submit", "TO=k8s", "GPUS=4", image, "RUN=mine", **tools)
    assert done.returncode == 0, done.stderr
    assert cluster.objects("jobs")["gemma-3-4b-it-mine"]["spec"] == manifests.load(rendered.stdout)[1]["spec"]
    assert make(cluster.checkout, "status", "TO=k8s", **tools).stdout.startswith("run    mine\n")


GRID = ("--grid", "LEARNING_RATE=1e-4,2e-4 LORA=low,high", "--run", "first")


@pytest.mark.slow
def test_a_sweep_is_a_run_and_a_job_for_every_member(cluster: Cluster) -> None:
    done = cluster.k8s("sweep", *IMAGE, *GRID)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "sweep  first: 4 members, at most 4 at once"
    assert "trainyard: claim trainyard is ReadWriteOnce: only what is on one node can run at once" in done.stderr
    jobs = cluster.objects("jobs")
    assert sorted(jobs) == [f"gemma-3-4b-it-first-{index}" for index in range(4)]
    labels = {name: job["metadata"]["labels"] for name, job in jobs.items()}
    assert {found["app.kubernetes.io/part-of"] for found in labels.values()} == {"first"}
    (container,) = jobs["gemma-3-4b-it-first-3"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][container["args"].index("--learning_rate") + 1] == "0.0002"
    assert {"name": "WANDB_RUN_GROUP", "value": "first"} in container["env"]
    rendered = manifests.load(cluster.k8s("render", *IMAGE, *GRID).stdout)
    assert [c["spec"] for c in rendered if c["kind"] == "Job"] == [jobs[name]["spec"] for name in sorted(jobs)]
    again = cluster.k8s("sweep", *IMAGE, *GRID)
    assert (again.returncode, again.stdout) == (78, "")
    assert "RUN=first-0: exists in this namespace" in again.stderr


@pytest.mark.slow
def test_a_sweeps_members_are_looked_at_cancelled_and_resumed_together(cluster: Cluster) -> None:
    cluster.k8s("sweep", *IMAGE, *GRID)
    cluster.end("gemma-3-4b-it-first-0", "Complete")
    rows = [line.split()[:3] for line in cluster.k8s("status", "--run", "first").stdout.splitlines()[3:7]]
    states = ["COMPLETED", "PENDING", "PENDING", "PENDING"]
    assert rows == [[f"first-{i}", f"gemma-3-4b-it-first-{i}", state] for i, state in enumerate(states)]
    busy = cluster.k8s("resume", "--run", "first")
    assert (busy.returncode, busy.stdout) == (78, "")
    assert busy.stderr == "trainyard: sweep first has no member that is unfinished and without a job\n"
    done = cluster.k8s("cancel", "--run", "first")
    assert done.stdout == "cancelled 3 jobs of sweep first; make resume TO=k8s RUN=first starts them again\n"
    assert list(cluster.objects("jobs")) == ["gemma-3-4b-it-first-0"]
    assert cluster.k8s("cancel", "--run", "first").stdout == "sweep first has no job that is pending or running\n"
    assert cluster.k8s("resume", "--run", "first-2").returncode == 0
    done = cluster.k8s("resume", "--run", "first", "--time", "2h")
    assert (done.returncode, done.stdout) == (
        0,
        "new jobs for first-1, first-3\nstatus  make status TO=k8s RUN=first\n",
    )
    jobs = cluster.objects("jobs")
    assert sorted(jobs) == ["gemma-3-4b-it-first-0", *(f"gemma-3-4b-it-first-{i}--2" for i in (1, 2, 3))]
    limits = {
        variable["value"]
        for job in jobs.values()
        for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]
        if variable["name"] == "TRAINYARD_TIME_LIMIT_S"
    }
    assert limits == {"43200", "7200"}
    record = json.loads(cluster.objects("configmaps")["gemma-3-4b-it-first-3"]["data"]["run.json"])
    assert record["job_ids"] == ["gemma-3-4b-it-first-3", "gemma-3-4b-it-first-3--2"]


@pytest.mark.slow
def test_a_sweep_whose_member_still_saves_is_resumed_later_and_whole(cluster: Cluster) -> None:
    cluster.k8s("sweep", *IMAGE, *GRID)
    cluster.pod("gemma-3-4b-it-first-2", "saving", "step 3/9\n")
    cluster.k8s("cancel", "--run", "first")
    done = cluster.k8s("resume", "--run", "first")
    assert (done.returncode, done.stdout, cluster.objects("jobs")) == (78, "", {})
    assert "pod saving of run first-2 still writes its checkpoints: try again when it has gone" in done.stderr


@pytest.mark.slow
def test_a_sweeps_log_is_that_of_the_member_that_runs(cluster: Cluster) -> None:
    cluster.k8s("sweep", *IMAGE, *GRID)
    for index, kind in ((0, "Complete"), (1, "Failed")):
        cluster.pod(f"gemma-3-4b-it-first-{index}", f"p{index}", f"member {index}\n", phase="Failed")
        cluster.end(f"gemma-3-4b-it-first-{index}", kind)
    done = cluster.k8s("logs", "--run", "first")
    assert done.stdout == "member 1\n"
    assert done.stderr.startswith("trainyard: RUN=first is a sweep: this is first-1, RUN= shows another\n")


@pytest.mark.slow
def test_a_grid_is_rendered_the_same_twice_and_refused_as_a_run_is(checkout: Path) -> None:
    texts = {k8s("render", *IMAGE, *GRID[:2], cwd=checkout).stdout for _ in range(2)}
    (text,) = texts
    assert len(manifests.load(text)) == 8
    for argv, said in (
        ([*IMAGE, "--grid", "LORA=low,x"], "LORA=x: takes high, medium, low or a rank"),
        ([*IMAGE, "--trials", "2"], "TRIALS=2: is for TO=slurm or local only"),
        (["--grid", "LORA=low"], "no image"),
        ([*IMAGE, "--grid", "DATA=data/a,b"], "DATA=b: pods see data/"),
    ):
        done = k8s("render", *argv, cwd=checkout)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
        assert said in done.stderr


def test_a_manifest_that_is_applied_again_changes_nothing(cluster: Cluster) -> None:
    path = cluster.home / "run.yaml"
    cluster.put("persistentvolumeclaims", "wide", {"spec": {"accessModes": ["ReadWriteMany"]}})
    done = cluster.k8s("render", *IMAGE, "--gpus", "2", "--nodes", "2", "--pvc", "wide", "--run", "mine")
    path.write_text(done.stdout)
    for said in ("created", "unchanged"):
        done = cluster.kubectl("apply", "-f", str(path))
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            f"{kind}/gemma-3-4b-it-mine {said}" for kind in ("configmap", "service", "job.batch")
        ]
