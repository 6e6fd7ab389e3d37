"""Tells from a model's configuration, skeleton and tokens whether it reads text onward and writes text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainer.flags import EXAMPLES
from trainer.outcome import ConfigError


def check_known(model: str) -> None:
    """Raises ConfigError for a model whose type the installed transformers does not know."""
    import transformers

    written = transformers.PreTrainedConfig.get_config_dict(model)[0]
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind in transformers.CONFIG_MAPPING:
        return
    problem = f"its type {kind!r} is unknown to transformers {transformers.__version__}"
    if written.get("auto_map"):
        problem += ", and its own Python files (auto_map) are not run"
    advice = "take a copy in a type that transformers knows (its repository's name often ends in -hf), or another model"
    raise ConfigError(problem, name="MODEL", given=model, advice=advice)


def without_words(config: Any, loader: Any) -> str:
    """What writes no text, in words: the class whose weights config.json says that these are (BertForMaskedLM), or
    the model type if `loader`'s class for it writes none; "" for a model that writes text."""
    import transformers

    named = next(iter(config.architectures or ()), "")
    saved = getattr(transformers, named, None) if isinstance(named, str) and named.isidentifier() else None
    if isinstance(saved, type) and issubclass(saved, transformers.PreTrainedModel) and not saved.can_generate():
        body = transformers.MODEL_MAPPING.get(type(config), ())
        if saved not in (body if isinstance(body, tuple) else (body,)):  # a body alone may get its tied head back
            return named
    return "" if loader._model_mapping[type(config)].can_generate() else str(config.model_type)


def check_reads_onward(model: str, config: Any, decoder: nn.Module | None = None) -> None:
    """Raises ConfigError for a language model that reads in both directions, as BERT does unless its config.json makes
    a decoder of it: a word's loss would be that of a word that it has seen.

    The type of the configuration tells where it has a class that fills gaps; the modules of the `decoder` tell it of
    the other types.
    """
    import transformers

    modules = decoder.modules() if decoder is not None else ()
    onward = {module.is_causal for module in modules if hasattr(module, "is_causal")}
    fills_gaps = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    switch = "causal" if fills_gaps and not hasattr(config, "is_decoder") else "is_decoder"  # XLM has the one
    if (fills_gaps or onward == {False}) and getattr(config, switch, None) is False:
        raise ConfigError(
            f"{config.model_type} reads a text in both directions ({switch} is false), so it cannot learn to write "
            f"one: give a model that answers in words, as {EXAMPLES['model']} does",
            name="MODEL",
            given=model,
        )


@contextmanager
def checked_tokens(model: str, embedding: Any) -> Iterator[None]:
    """In this block `check_tokens` sees all tokens that are looked up in the `embedding`. A family takes the places of
    its pictures out before that, though they may have numbers that the embedding does not have."""
    handle = embedding.register_forward_pre_hook(
        lambda _, given: check_tokens(model, embedding, given[0]) if given else None
    )
    try:
        yield
    finally:
        handle.remove()


def check_tokens(model: str, embedding: Any, tokens: Tensor) -> None:
    """Raises ConfigError when `tokens` are more than the `embedding` has. On a GPU that would end with an error that
    looks like the GPU's own."""
    most, rows = int(tokens.max()) if tokens.numel() else 0, getattr(embedding, "num_embeddings", None)
    if rows is not None:  # Idefics keeps the rows of its own tokens beside those of the language model
        rows += getattr(embedding, "num_additional_embeddings", 0)
    if rows is not None and most >= rows:
        raise ConfigError(
            f"its tokenizer writes token {most}, and its weights have {rows} tokens, from 0: were tokens added without "
            "resize_token_embeddings?",
            name="MODEL",
            given=model,
            advice="give the tokenizer that belongs to these weights",
        )
