"""A tiny but real Gemma 3, built from its configuration with random weights, that loads like the 4B one.

    python -c "from pathlib import Path; from examples.demo.tiny import write_tiny_model;
    write_tiny_model(Path('tiny-gemma3'))"

Same classes, special tokens and rendered conversations as the real model; only the sizes differ. It knows nothing:
everything it can do later, the adapter has learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo.corpus import CORPUS

if TYPE_CHECKING:
    from transformers import Gemma3Config, Gemma3Processor, PreTrainedTokenizerFast

HIDDEN = 128  # like every size of a linear below a multiple of 64, one NF4 block
IMAGE_PX = 108
PATCH_PX = 18  # 6 x 6 patches, 3 x 3 a frame of the grid: the middle one sees the player and what is around
IMAGE_TOKENS = (IMAGE_PX // PATCH_PX) ** 2
VOCABULARY = 1280

# Mean and spread of the game's colours, red, green, blue: with them plain grass is nearly nothing to the untrained
# tower and the road stands out. Seed 0 after 250 steps of 32, held out: 99 % with them, 85 % with the usual 0.5.
IMAGE_MEAN = (0.47, 0.63, 0.45)
IMAGE_STD = (0.24, 0.16, 0.21)

# Gemma 3's own initializer range. Each layer's output is normalised, so small random weights cost nothing and the
# adapter outgrows them sooner: 99 % where 0.15 gives 70 %, measured as above.
LINEAR_STD = 0.02
EMBEDDING_STD = 0.15
POSITION_STD = 1.0
PROJECTION_STD = 0.2

# Same ids as in Gemma 3 for the first five.
SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)

# Gemma 3's own template in fewer words: a system message goes in front of the first user turn, "assistant" is
# called "model", an image becomes the token that the processor expands.
CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set prefix = (system if system is string else system[0]['text']) + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
    {{- prefix if loop.first else '' -}}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for item in message['content'] -%}
            {{ '<start_of_image>' if item['type'] == 'image' else item['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of VOCABULARY entries: any text comes back exactly as it went in.

    Like Gemma's it puts <bos> in front of whatever it encodes, so a rendered chat template, which has one
    already, must be encoded with `add_special_tokens=False`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # No prefix space: prompt and answer encoded apart must give the same tokens as encoded together.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        clean_up_tokenization_spaces=False,
    )


def build_processor(*, image_px: int = IMAGE_PX, image_tokens: int = IMAGE_TOKENS) -> Gemma3Processor:
    """Returns a Gemma3Processor: an image of any size becomes 3 x 108 x 108 and 36 soft tokens, or as many as said."""
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    image_processor = Gemma3ImageProcessorPil(
        size={"height": image_px, "width": image_px}, image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD)
    )
    return Gemma3Processor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        image_seq_length=image_tokens,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Gemma3Config:
    """Returns the configuration: two text layers (one sliding, one full) and a one-layer image tower."""
    from transformers import Gemma3Config

    token_id = tokenizer.convert_tokens_to_ids
    return Gemma3Config(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 1024,
            "max_position_embeddings": 8192,
            "initializer_range": LINEAR_STD,
            "bos_token_id": token_id("<bos>"),
            "eos_token_id": token_id("<eos>"),
            "pad_token_id": token_id("<pad>"),
        },
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": IMAGE_PX,
            "patch_size": PATCH_PX,
            "vision_use_head": False,
        },
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=token_id("<start_of_image>"),
        eoi_token_index=token_id("<end_of_image>"),
        image_token_index=token_id("<image_soft_token>"),
        bos_token_id=token_id("<bos>"),
        eos_token_id=[token_id("<eos>"), token_id("<end_of_turn>")],
        pad_token_id=token_id("<pad>"),
        initializer_range=0.1,
    )


def write_tiny_model(folder: Path, *, seed: int = 0) -> None:
    """Writes model, processor and generation settings to `folder`, about 3 MB, the same bytes for the same seed.

    `AutoProcessor` and `AutoModelForImageTextToText` load it, the latter in NF4 too.
    """
    import torch
    from transformers import Gemma3ForConditionalGeneration, GenerationConfig

    from trainer.measure.keep import measure_and_keep

    processor = build_processor()
    config = build_config(processor.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration(config)
        # Gemma 3 starts this at zero: blind to its images, with nothing for the adapter to work on.
        projection = model.model.multi_modal_projector.mm_input_projection_weight
        torch.nn.init.normal_(projection, std=PROJECTION_STD)
        # The embedding is also the output layer: at 0.02 a model this narrow could never be sure of an answer.
        torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=EMBEDDING_STD)
        # Nobody trained the tower: without louder positions a patch hardly says where on the screen it is.
        positions = model.model.vision_tower.embeddings.position_embedding
        torch.nn.init.normal_(positions.weight, std=POSITION_STD)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    measure_and_keep(str(folder))  # for the plan, whose Python has no torch
