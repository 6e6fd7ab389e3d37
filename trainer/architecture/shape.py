"""The sizes that memory and FLOPs depend on, as measured on a model's own skeleton."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.architecture.targets import ALL, is_target


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """The linears of a layer that have one path, each of which may get an adapter."""

    path: str
    """Path in the language model, N for a layer's number: layers.N.self_attn.q_proj."""
    count: int
    """How many linears of one layer have it: more than one where a layer holds a list of parts."""
    inputs: int
    """Sum of the widths that they read; times a rank, the weights of their adapters' first halves."""
    outputs: int
    reads: int
    """Number of the value that they read, among those of the layer. Linears that share an input have the same."""
    kept_inputs: int
    """Width of that value if nothing else keeps it for the backward pass, else 0."""


PLANNED_PX = 784
"""Side of the picture that a shape is measured with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One sort of layer of the language model. The values that autograd keeps are counted per token;
    `trainer.measure` describes how."""

    count: int
    """How many layers of the model are of this sort."""
    linear_params: int
    """Weights of its linears, which NF4 packs into 4 bits."""
    expert_params: int
    """Weights of experts in tensors of three dimensions. They stay at 16 bits, because bitsandbytes packs only
    linears."""
    active_expert_params: int
    """Weights of the experts that one token is sent through."""
    other_params: int
    """Weights of norms, biases, convolutions, and of routers that are not linears."""
    linears: tuple[Linear, ...]
    """The linears that may get an adapter."""
    values: int
    """Values that autograd keeps in the width of the computation."""
    fp32_values: int
    """Values that autograd keeps in fp32, whatever the width of the computation: the inputs of norms."""
    pair_values: int
    """Values that are kept for each pair of tokens: 1 for the mask's row, more where attention is not fused."""
    q_width: int
    """Query heads x head size; 0 without attention."""
    kv_width: int
    """Key heads x head size: the values that one token adds to the cache as keys, and as many again as values."""
    widest: int
    """The largest value of one token inside the layer, for example the MLP's inner width."""

    def adapted(self, targets: str) -> Layer:
        """This layer with those linears alone that get an adapter when `lora_targets` is `targets`."""
        return replace(self, linears=tuple(linear for linear in self.linears if is_target(linear.path, targets)))

    @property
    def recomputed(self) -> bool:
        """Whether activation checkpointing computes it again: the sort of linears outside the layers is kept whole."""
        return not self.linears or any(".N." in linear.path for linear in self.linears)

    @property
    def adapters(self) -> int:
        """Linears that get an adapter."""
        return sum(linear.count for linear in self.linears)

    @property
    def adapter_inputs(self) -> int:
        """Sum of the widths that those linears read."""
        return sum(linear.inputs for linear in self.linears)

    @property
    def adapter_outputs(self) -> int:
        return sum(linear.outputs for linear in self.linears)

    @property
    def kept_inputs(self) -> int:
        """Values that those linears read and that nothing else keeps; an input that two share is counted once."""
        return sum({linear.reads: linear.kept_inputs for linear in self.linears}.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The measured sizes of a model. The sizes of a tower are 0 for a model without pictures."""

    family: str
    """`model_type`, for example gemma3. It is only shown; no decision depends on it."""
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    """Sorts of layers, in the model's order. Linears outside the layers form a sort of their own."""
    embedding_params: int
    """Embeddings of the language model, those of each layer included."""
    head_params: int
    """0 where the head shares the embedding's weights."""
    other_params: int
    """Weights that are in no layer and neither in the embedding nor in the head: the last norm."""
    largest_linear: int
    """Weights of the largest linear of a layer, which is expanded from its 4 bits before use."""
    vision_params: int
    """Weights of the image tower."""
    vision_hidden: int
    vision_mlp: int
    vision_patches: int
    """Rows that the tower works on for one picture."""
    vision_layers: int
    vision_linears: int
    """How many linears tower and projector have."""
    vision_linears_in: int
    """Sum of the widths that these linears read; times a rank, the weights of their adapters' first halves."""
    vision_linears_out: int
    vision_values: int
    """Values that autograd keeps of one patch in one layer of a tower with adapters, in the width of the
    computation."""
    projector_params: int
    """Weights of every other part beside the language model: the projector, a tower for sound."""
    tokens_per_image: int
    """Positions that one picture takes in the language model, at the picture size that the plan assumes."""
    fixed_pictures: bool
    """Whether every picture takes `tokens_per_image` positions, whatever its size."""

    def total(self, name: str) -> int:
        """Sum over all layers of the size called `name`."""
        return sum(layer.count * int(getattr(layer, name)) for layer in self.layers)

    @property
    def depth(self) -> int:
        """How many layers the language model has."""
        return sum(layer.count for layer in self.layers)

    @property
    def linear_params(self) -> int:
        """Weights of the language model that NF4 packs."""
        return self.total("linear_params")

    @property
    def expert_params(self) -> int:
        """Weights of fused experts, which stay at 16 bits."""
        return self.total("expert_params")

    @property
    def text_extra_params(self) -> int:
        """Everything in the language model that is neither a linear nor an expert, embedding or head."""
        return self.total("other_params") + self.other_params

    @property
    def total_params(self) -> int:
        text = self.linear_params + self.expert_params + self.embedding_params + self.head_params
        return text + self.text_extra_params + self.vision_params + self.projector_params

    def lora_params(self, r: int, vision: str = "frozen", targets: str = ALL) -> int:
        """Trainable weights with LoRA of rank `r` on the `targets` in the language model, and with vision=lora on the
        tower's linears too."""
        tower = self.vision_linears_in + self.vision_linears_out if vision == "lora" else 0
        tuned = [layer.adapted(targets) for layer in self.layers]
        return r * (sum(layer.count * (layer.adapter_inputs + layer.adapter_outputs) for layer in tuned) + tower)
