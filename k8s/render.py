"""Plan -> the text of the manifests; anything that the pods could not see or get is refused. Pure but for the files
it reads: the settings file and `.env`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from k8s.manifest import objects
from k8s.manifest.claim import WIDE, refuse_narrow_claim
from k8s.manifest.pod import GPU, claim_name, gpu_resource, least_mem_gib, mounted, places_to_write, shm_gib, writable
from k8s.manifest.site import Cluster
from k8s.manifest.site_values import SLICE_RESOURCE
from launcher.image import CACHE_DIR, ENVIRONMENT, WORK_DIR
from planner.choose import choose, refuse_several_slices
from planner.job import JobSpec
from planner.plan import Plan
from planner.request.file_settings import check_trainer_accepts
from planner.request.secret import is_secret, refuse_secret
from planner.values import GPU_GIB, on_disk
from trainer.architecture.hub import is_hub_id
from trainer.config import SETTINGS
from trainer.env_file import read_env_file
from trainer.files import once, read_typed
from trainer.outcome import ConfigError

# Names in .env that are valid on this machine only, or that the plan sets itself.
NOT_HANDED_ON = ("HF_HOME", "CUDA_VISIBLE_DEVICES", "ACCELERATE_CONFIG", "CONFIG_FILE")


def complete(spec: JobSpec, cluster: Cluster, project_dir: Path, *, hashed: bool) -> JobSpec:
    """The request in the form for a pod; `hashed` derives its run id from everything that is rendered. Raises
    ConfigError when no pod could see the files that it names."""
    _refuse_unseen(spec, cluster, project_dir)
    refuse_several_slices(spec, are_slices=gpu_resource(spec, cluster).startswith(SLICE_RESOURCE))
    settings = _read_settings(spec, project_dir)
    # In the image the checkout has another path. The result does not depend on who renders, or where.
    spec = spec.but(project_dir=WORK_DIR, environment=tuple(sorted(_handed_on(spec, project_dir).items())))
    if not hashed:
        return spec
    text = json.dumps([{**spec.to_dict(), "run_id": ""}, asdict(cluster), settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return spec.but(run_id=f"{spec.name}-{digest}")


def plan(spec: JobSpec, cluster: Cluster, project_dir: Path) -> Plan:
    """The plan for a complete request. Raises ConfigError when no pod could run it."""
    planned = choose(spec)
    if not spec.resources.ask_mem:
        raise ConfigError(
            "a pod asks for its memory", name="MEM", given="none", advice="leave MEM out, or give it in GiB"
        )
    if spec.resources.mem_gib < (least := least_mem_gib(planned)):
        shared = f"{shm_gib(planned)} GiB of /dev/shm count into it"
        raise ConfigError(
            f"a pod of this run needs {least} GiB ({shared})",
            name="MEM",
            given=spec.resources.mem_gib,
            advice=f"try MEM={least}",
        )
    told = check_trainer_accepts(planned, project_dir)
    _refuse_unseen_settings({**told.values, **_handed_on(spec, project_dir)}, cluster)
    return planned


def render(planned: Plan, cluster: Cluster, project_dir: Path, job_ids: Sequence[str] = (), *, slot: str = "") -> str:
    """The manifest; `job_ids` are the run's Jobs so far, `slot` the slot of a sweep's member. Raises ConfigError
    without an image, which a plan does not need."""
    image = planned.spec.container.image
    if not image or on_disk(image):
        said = f"IMAGE={image}: pods cannot run a file" if image else "no image"
        raise ConfigError(f"{said}: IMAGE=registry/trainyard:tag, or image: in k8s/site.yaml; make image builds one")
    settings = _read_settings(planned.spec, project_dir)
    return objects.render(planned, cluster, settings=settings, job_ids=job_ids, slot=slot)


def notes(spec: JobSpec, cluster: Cluster) -> list[str]:
    """Notes about the manifest for a person."""
    found = _gpu_notes(spec, cluster) if spec.resources.device == "cuda" else []
    if spec.resources.nodes > 1 and not cluster.pvc_access:
        found.append(f"claim {claim_name(spec)} must be {WIDE} for {spec.resources.nodes} nodes")
    return found


def _handed_on(spec: JobSpec, project_dir: Path) -> dict[str, str]:
    return {**_from_env_file(project_dir), **dict(spec.environment)}


def _refuse_unseen(spec: JobSpec, cluster: Cluster, project_dir: Path) -> None:
    """Raises ConfigError for files that are on this machine and not in the pod."""
    places = ", ".join(["data/ and models/ in the claim", *(volume.mount for volume in cluster.volumes)])
    if not mounted(spec.data, cluster):
        raise ConfigError(
            f"pods see {places}", name="DATA", given=spec.data, advice="copy it there and say DATA=data/..."
        )
    # models/x lies in the claim, as all mounted places do.
    if not mounted(spec.model, cluster) and not is_hub_id(spec.model):
        raise ConfigError(
            f"pods see {places}", name="MODEL", given=spec.model, advice="copy it there, or give a hub id"
        )
    if (project_dir / spec.model).is_dir() and not mounted(spec.model, cluster):
        raise ConfigError(
            f"a folder of this machine; pods see {places}", name="MODEL", given=spec.model, advice="copy it there"
        )
    if not writable(spec.output, cluster):
        others = places_to_write(cluster)[1:]
        where = f" (or below {' or '.join(others)})" if others else ""
        raise ConfigError(
            f"runs live in the claim, in runs/{where}", name="OUTPUT", given=spec.output, advice="leave it out"
        )
    if cluster.pvc_access:
        refuse_narrow_claim(spec, [cluster.pvc_access], "pvc_access in the site file")


def _refuse_unseen_settings(told: Mapping[str, object], cluster: Cluster) -> None:
    """Raises ConfigError for a folder that the settings file, `.env` or ENVIRONMENT names and that no pod has."""
    if "TMPDIR" in told:
        raise ConfigError("ENVIRONMENT: TMPDIR is not to be set here: the pod has a writable /tmp and nothing else")
    folders = [spelled for name, setting in SETTINGS.items() if setting.folder for spelled in (name, setting.env)]
    for name in (*folders, *ENVIRONMENT):
        path = str(told.get(name) or "")
        if path and not mounted(path, cluster) and not path.startswith(f"{CACHE_DIR}/"):
            raise ConfigError(f"pods see {_places(cluster)}", name=name, given=path, advice="give a folder there")


def _places(cluster: Cluster) -> str:
    return ", ".join(["data/, models/ and runs/ in the claim", *(volume.mount for volume in cluster.volumes)])


def _read_settings(spec: JobSpec, project_dir: Path) -> str:
    config_file = spec.training.config_file
    if not config_file:
        return ""
    place = os.path.normpath(os.path.join(WORK_DIR, config_file))
    if os.path.dirname(place) != WORK_DIR:
        raise ConfigError(
            "takes a file in the checkout's own folder", name="CONFIG_FILE", given=config_file, advice="copy it there"
        )
    if ":" in place:
        raise ConfigError(
            "pods mount no name with a colon", name="CONFIG_FILE", given=config_file, advice="call it otherwise"
        )
    try:
        text = once(read_typed, project_dir / config_file).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{getattr(error, 'strerror', None) or error}", name="CONFIG_FILE", given=config_file
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        refuse_secret(f"CONFIG_FILE={config_file} line {number}", line)
    return text


def _from_env_file(project_dir: Path) -> dict[str, str]:
    """The values of `.env` that may be shown. Its secrets stay on this machine: in the cluster they come from a
    Secret."""
    found = read_env_file(project_dir / ".env")
    for name, value in found.items():
        if not value.isprintable():
            raise ConfigError(f".env line {found.lines[name]}: {name} takes printable characters on one line")
    return {name: value for name, value in found.items() if name not in NOT_HANDED_ON and not is_secret(name, value)}


def _gpu_notes(spec: JobSpec, cluster: Cluster) -> list[str]:
    """Notes about cases in which the scheduler may assign other GPUs than requested, or search for a size that is not
    sold."""
    resources = spec.resources
    notes = []
    kind = resources.gpu_type
    if not kind and cluster.gpu_resources:
        others = ", ".join(f"GPU_TYPE={name}" for name in cluster.gpu_resources)
        notes.append(f"without GPU_TYPE the pods ask for {GPU}; {others} asks for what gpu_resources: says")
    sold = [size for name, size in GPU_GIB.items() if kind and f"{name}-".startswith(f"{kind.lower()}-")]
    if spec.sources.vram_source == "given" and kind not in cluster.gpu_gib and sold and resources.vram_gib > max(sold):
        notes.append(
            f"VRAM={resources.vram_gib:g}: {kind} is known with {max(sold):g} GiB: leave VRAM out, or if yours have "
            f"more, say gpu_types: {{{kind}: {resources.vram_gib:g}}} in k8s/site.yaml"
        )
    if cluster.gpu_selectors.get(kind or "") or kind in cluster.gpu_resources:
        return notes
    if not cluster.gpu_feature_discovery:
        notes.append(
            f"nothing in the manifest asks for {kind or f'GPUs of {resources.vram_gib:g} GiB'}: the scheduler "
            "may take any; say gpu_feature_discovery: true or gpu_selectors: in k8s/site.yaml"
        )
    elif kind:
        # Node labels allow no patterns: a label is one of a list, or greater than a number.
        notes.append(
            f"nothing in the manifest asks for {kind}, only for its memory: any GPU that holds as much may come; say "
            f"gpu_selectors: {{{kind}: {{{GPU}.product: ...}}}} in k8s/site.yaml, with the product that "
            f"kubectl get nodes -L {GPU}.product shows"
        )
    return notes
