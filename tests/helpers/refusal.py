"""The text of a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.outcome import ConfigError


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)
