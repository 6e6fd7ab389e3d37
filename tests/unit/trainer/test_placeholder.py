"""What stands in the place of a token in an example is no token, and counts as not given."""

from __future__ import annotations

import pytest

from trainer.placeholder import is_placeholder, placeholders


@pytest.mark.parametrize(
    "value",
    [
        "your_key_here", "YOUR-WANDB-API-KEY", "hf_your_token_here", "your_huggingface_token_here", "<your key>",
        "changeme", "change_me", "paste your key here", "xxx", "hf_xxxxxxxxxxxxxxxx", "XXXX", "...", "****", "<token>",
        "${WANDB_API_KEY}", "{{ key }}", "[key]", "placeholder", "none", "TODO", "my-api-key", "example_key",
    ],
)  # fmt: skip
def test_words_in_the_place_of_a_token_are_known(value: str) -> None:
    assert is_placeholder(value)
    assert placeholders({"HF_TOKEN": value, "WANDB_API_KEY": "c" * 40, "OTHER": value}) == ["HF_TOKEN"]


@pytest.mark.parametrize(
    "value",
    [
        "", "c" * 40, "local-" + "a" * 40, "0123456789abcdef" * 3, "wandb_v1_AbC123_yourXyZ9", "hf_AbCdEfGhIjKlMnOpQr",
        "hf_x", "k", "k=1", "secret", "hf_herenothingstandsapart", "key_very_secret", "wandb_v1_my_1here",
    ],
)  # fmt: skip
def test_what_may_be_a_token_is_taken_as_one(value: str) -> None:
    assert not is_placeholder(value)
