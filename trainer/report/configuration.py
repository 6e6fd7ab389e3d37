"""The part of the report that says what was asked for, on which data and with which versions."""

from __future__ import annotations

from trainer.report.charts import Entry, esc, missing, short

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Model", ("model", "quantization", "lora_r", "lora_alpha", "lora_dropout", "activation_checkpointing")),
    ("Data", ("data", "max_length", "eval_fraction", "eval_samples", "answer_field", "seed")),
    ("Steps", ("max_steps", "micro_batch_size", "gradient_accumulation_steps", "logging_steps", "eval_steps")),
    ("Optimizer", ("optimizer", "learning_rate", "warmup_fraction", "weight_decay", "max_grad_norm")),
    ("Run", ("run_id", "output_dir", "device", "world_size")),
)


def configuration(record: Entry) -> str:
    config: Entry = record.get("config") or {}
    if not config:
        return missing("The configuration was not recorded.")
    rest = tuple(name for name in config if all(name not in names for _, names in GROUPS))
    tables = []
    chosen = [(title, {n: config[n] for n in names if n in config}) for title, names in (*GROUPS, ("Other", rest))]
    for title, values in (*chosen, ("Data set", record.get("data")), ("Versions", record.get("versions"))):
        rows = "".join(
            f'<tr><th scope="row">{esc(name)}</th><td>{_value(value)}</td></tr>'
            for name, value in (values or {}).items()
        )
        if rows:
            tables.append(f'<table class="settings"><caption>{title}</caption><tbody>{rows}</tbody></table>')
    return f'<div class="groups">{"".join(tables)}</div>'


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return esc(short(value) if isinstance(value, float) else value)
