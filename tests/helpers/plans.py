"""Plans made by hand, so that what is rendered from them changes only when rendering does."""

from __future__ import annotations

from typing import Any

from planner.job import JobSpec
from planner.plan import Candidate, Estimate, Plan
from trainer.architecture.shape import Layer, Linear, ModelShape
from trainer.launch import Launch, shipped
from trainer.text import GIB

LINEARS = (
    ("self_attn.q_proj", 2560, 2048, 0, 2560),
    ("self_attn.k_proj", 2560, 1024, 0, 2560),
    ("self_attn.v_proj", 2560, 1024, 0, 2560),
    ("self_attn.o_proj", 2048, 2560, 1, 0),
    ("mlp.gate_proj", 2560, 10_240, 2, 2560),
    ("mlp.up_proj", 2560, 10_240, 2, 2560),
    ("mlp.down_proj", 10_240, 2560, 3, 10_240),
)
SHAPE = ModelShape(
    family="gemma3",
    hidden=2560,
    vocab=262_208,
    layers=(
        Layer(
            count=34,
            linear_params=94_371_840,
            expert_params=0,
            active_expert_params=0,
            other_params=10_752,
            linears=tuple(
                Linear(path=f"layers.N.{path}", count=1, inputs=inputs, outputs=outputs, reads=reads, kept_inputs=kept)
                for path, inputs, outputs, reads, kept in LINEARS
            ),
            values=38_912,
            fp32_values=13_312,
            pair_values=1,
            q_width=2048,
            kv_width=1024,
            widest=10_240,
        ),
    ),
    embedding_params=671_252_480,
    head_params=0,
    other_params=2560,
    largest_linear=26_214_400,
    vision_params=416_866_032,
    vision_hidden=1152,
    vision_mlp=4304,
    vision_patches=4096,
    vision_layers=27,
    vision_linears=162,
    vision_linears_in=27 * (5 * 1152 + 4304),
    vision_linears_out=27 * (5 * 1152 + 4304),
    vision_values=21_280,
    projector_params=2_950_272,
    tokens_per_image=256,
    fixed_pictures=True,
)
ENV = (("HF_HUB_DISABLE_TELEMETRY", "1"), ("OMP_NUM_THREADS", "4"))


def make_plan(*, argv: tuple[str, ...] | None = None, env: tuple[tuple[str, str], ...] = ENV, **request: Any) -> Plan:
    """A Plan for the request; `argv` is the job's command, else a short one."""
    defaults: dict[str, Any] = {
        "model": "google/gemma-3-4b-it",
        "shape": SHAPE,
        "data": "data",
        "project_dir": "/home/ada/trainyard",
        "name": "gemma",
        "run_id": "gemma-0123abcd",
    }
    spec = JobSpec.of(**{**defaults, **request})
    candidate = Candidate(
        config="multi_gpu" if spec.num_processes > 1 else "single_gpu",
        checkpointing=False,
        offload=False,
        optimizer="adamw",
        micro_batch_size=2,
        gradient_accumulation_steps=2,
        estimate=Estimate(items=(("model", 3 * GIB),), load_peak_bytes=4 * GIB),
        usable_bytes=22 * GIB,
        fits=True,
        reason="chosen",
    )
    planned = Launch(
        configuration=shipped(candidate.config),
        processes=spec.num_processes,
        machines=spec.resources.nodes,
        module="trainer.train",
        settings={"model": spec.model, "data": spec.data, "output_dir": spec.run_dir},
    )
    return Plan(
        spec=spec,
        chosen=candidate,
        candidates=(candidate,),
        effective_batch_size=8,
        launch=Launch.from_words(argv) if argv else planned,
        env=env,
    )
