"""What of `.env` stands in a manifest, which anybody may read."""

from __future__ import annotations

from pathlib import Path

from k8s.render import _from_env_file
from planner.request.secret import is_secret


def test_what_its_name_or_its_value_calls_a_secret_stays_on_this_machine(tmp_path: Path) -> None:
    shown = {"WANDB_PROJECT": "games", "WANDB_MODE": "offline"}
    by_name, by_value = {"WANDB_PASSWORD": "correct-horse-9"}, {"WANDB_NOTES": f"hf_{'aB3' * 12}"}
    assert not is_secret("WANDB_NOTES", by_name["WANDB_PASSWORD"])
    lines = {"HF_TOKEN": "hf_canary", "WANDB_API_KEY": "canary", **shown, **by_name, **by_value}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    assert _from_env_file(tmp_path) == shown
