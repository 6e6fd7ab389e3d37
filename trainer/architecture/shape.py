"""The sizes that memory and FLOPs depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes that memory depends on, as in the model's config.json."""

    family: str
    """`model_type`, for example gemma3."""
    hidden: int
    layers: int
    mlp: int
    q_width: int
    """Query heads x head size; also the width that the output projection reads."""
    kv_width: int
    """Key (and value) heads x head size."""
    vocab: int
    tied_embedding: bool
    """The head shares the embedding's weights."""
    text_extra_params: int
    """Everything in the language model that is neither a layer's linear nor embedding or head: norms,
    biases."""
    vision_params: int
    """The image tower."""
    vision_hidden: int
    vision_mlp: int
    vision_patches: int
    """Patches (rows that the tower works on) for one image."""
    vision_layers: int
    vision_linears: int
    """How many linears tower and projector have."""
    vision_linears_in: int
    """Sum of what they read; times a rank, the weights of their adapters' first halves."""
    vision_linears_out: int
    projector_params: int
    tokens_per_image: int
    """Positions that one image takes in the language model."""

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the seven linears of one layer: q, k, v, o, gate, up, down."""
        h, f, q, kv = self.hidden, self.mlp, self.q_width, self.kv_width
        return ((h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h))

    @property
    def linear_params(self) -> int:
        """Weights in the language model's layers that NF4 quantizes."""
        return self.layers * sum(i * o for i, o in self.linear_shapes)

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        return 0 if self.tied_embedding else self.vocab * self.hidden

    @property
    def total_params(self) -> int:
        text = self.linear_params + self.embedding_params + self.head_params + self.text_extra_params
        return text + self.vision_params + self.projector_params

    def lora_params(self, r: int, vision: str = "frozen") -> int:
        """Trainable weights with LoRA of rank `r` on the language model's linears; vision=lora: the tower's too."""
        tower = self.vision_linears_in + self.vision_linears_out if vision == "lora" else 0
        return r * (self.layers * sum(i + o for i, o in self.linear_shapes) + tower)
