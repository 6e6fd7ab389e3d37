"""docs/models.md says of every model whose shape is shipped what it takes. `make golden` writes the table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest
from paths import ROOT
from specs import make_spec

from planner.choose import choose
from planner.refuse import CARD_SIZES_GIB
from trainer.architecture.shape_file import read_shape
from trainer.architecture.shapes import SHIPPED, shipped_models
from trainer.outcome import ConfigError

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- written by make golden -->\n", "<!-- end -->\n"
SURE = {
    "read": "read", "confirmed": "inferred, count confirmed",
    "general": "**not read**: check its config.json before you rely on the plan",
}  # fmt: skip


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def billions(count: int) -> str:
    return f"{count / 1e9:.2f} B"


def least_card(model: str) -> str:
    """The smallest card for which the default request has a plan."""
    for size in CARD_SIZES_GIB:
        try:
            plan = choose(make_spec(model, vram_gib=size))
        except ConfigError:
            continue
        return f"{size:g} GiB, {plan.chosen.label}"
    return "none"


def table() -> str:
    heads = ("models", "parameters", "experts at 16 bits", "picture", "QLoRA of 1,024 tokens needs", "values")
    lines = [row(heads), row(["---"] * len(heads))]
    by_file: dict[str, list[str]] = {}
    for model, slug in shipped_models().items():
        by_file.setdefault(slug, []).append(model)
    for slug, models in by_file.items():
        record = json.loads((SHIPPED / f"{slug}.json").read_text(encoding="utf-8"))
        shape = read_shape(record["shape"])
        picture = f"{shape.tokens_per_image:,}{'' if shape.fixed_pictures else '*'}"
        cells = (
            ", ".join(f"`{model}`{' (taken for the same)' * (model in record.get('same', ()))}" for model in models),
            billions(shape.total_params),
            billions(shape.expert_params) if shape.expert_params else "",
            picture if shape.vision_params else "text alone",
            f"refused: {record['refused']}" if "refused" in record else least_card(models[0]),
            SURE[record["sure"]],
        )
        lines.append(row(cells))
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_the_page_says_what_is_shipped() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    whole = f"{before}{BEGIN}{table()}{END}{after}"
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        PAGE.write_text(whole, encoding="utf-8")
    assert text == whole or os.environ.get("TRAINYARD_REWRITE_GOLDEN")
