"""The words of others: each is a setting, or is answered with why it is none."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from tutorial import TRAINING_CONFIG

from trainer.config import SETTINGS
from trainer.other_trainers import NEEDLESS, REASONS
from trainer.outcome import ConfigError
from trainer.settings import Settings, resolve_settings
from trainer.spellings import LORA, OURS

ANSWERED = {*SETTINGS, LORA, *OURS, *NEEDLESS}
TUTORIAL = f"""
{TRAINING_CONFIG}r: 64
lora_alpha: 128
target_modules: all-linear
lora_dropout: 0.05
bias: none
task_type: CAUSAL_LM
load_in_4bit: true
bnb_4bit_quant_type: nf4
bnb_4bit_compute_dtype: bfloat16
bnb_4bit_use_double_quant: true
torch_dtype: torch.bfloat16
attn_implementation: eager
"""
LLAMA_FACTORY = """
model_name_or_path: google/gemma-3-4b-it
trust_remote_code: false
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
template: gemma3
cutoff_len: 2048
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4
logging_steps: 10
save_steps: 500
plot_loss: true
save_only_model: false
report_to: tensorboard
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
max_steps: 100
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
quantization_bit: 4
freeze_vision_tower: true
"""
AXOLOTL = """
base_model: google/gemma-3-4b-it
processor_type: AutoProcessor
skip_prepare_dataset: true
remove_unused_columns: false
sample_packing: false
chat_template: tokenizer_default
val_set_size: 0.01
adapter: qlora
load_in_4bit: true
sequence_len: 2048
pad_to_sequence_len: false
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 1
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: true
fp16:
tf32: true
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
logging_steps: 1
sdp_attention: true
warmup_ratio: 0.1
weight_decay: 0.0
"""

# The commonest keys of others, as their examples and notebooks have them.
COMMONEST = {
    "LLaMA-Factory": """
        model_name_or_path trust_remote_code image_max_pixels video_max_pixels stage do_train finetuning_type lora_rank
        lora_target dataset eval_dataset template cutoff_len max_samples overwrite_cache preprocessing_num_workers
        dataloader_num_workers output_dir logging_steps save_steps plot_loss overwrite_output_dir save_only_model
        report_to per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs
        lr_scheduler_type warmup_ratio bf16 ddp_timeout resume_from_checkpoint val_size per_device_eval_batch_size
        eval_strategy eval_steps flash_attn lora_alpha lora_dropout use_rslora use_dora pissa_init quantization_bit
        quantization_method double_quantization rope_scaling shift_attn freeze_vision_tower freeze_language_model
        freeze_multi_modal_projector enable_liger_kernel deepspeed media_dir mask_history neat_packing streaming
        tokenized_path use_unsloth_gc adapter_name_or_path infer_backend use_swanlab run_name max_grad_norm pref_beta
    """,
    "Axolotl": """
        base_model model_type processor_type tokenizer_type hub_model_id load_in_8bit load_in_4bit strict datasets
        dataset_prepared_path val_set_size output_dir adapter lora_model_dir sequence_len sample_packing
        eval_sample_packing pad_to_sequence_len lora_r lora_alpha lora_dropout lora_target_modules lora_target_linear
        lora_modules_to_save lora_mlp_kernel lora_qkv_kernel lora_o_kernel wandb_project wandb_entity wandb_watch
        wandb_name wandb_log_model gradient_accumulation_steps micro_batch_size num_epochs optimizer lr_scheduler
        learning_rate bf16 fp16 tf32 gradient_checkpointing gradient_checkpointing_kwargs resume_from_checkpoint
        logging_steps flash_attention eager_attention sdp_attention warmup_steps warmup_ratio evals_per_epoch
        saves_per_epoch weight_decay special_tokens plugins liger_rope liger_rms_norm cut_cross_entropy
        ddp_find_unused_parameters chat_template skip_prepare_dataset remove_unused_columns train_on_inputs
        group_by_length local_rank debug deepspeed fsdp fsdp_config unfrozen_parameters image_size save_first_step
    """,
    "Unsloth": """
        model_name max_seq_length load_in_4bit load_in_8bit load_in_16bit full_finetuning use_gradient_checkpointing
        dtype token finetune_vision_layers finetune_language_layers finetune_attention_modules finetune_mlp_modules r
        target_modules lora_alpha lora_dropout bias random_state use_rslora loftq_config train_dataset data_collator
        per_device_train_batch_size gradient_accumulation_steps warmup_steps max_steps num_train_epochs learning_rate
        logging_steps optim weight_decay lr_scheduler_type seed output_dir report_to remove_unused_columns
        dataset_text_field dataset_kwargs max_length fast_inference gpu_memory_utilization packing dataset_num_proc
    """,
    "ms-swift": """
        model model_type dataset val_dataset split_dataset_ratio load_from_cache_file train_type tuner_type torch_dtype
        num_train_epochs per_device_train_batch_size per_device_eval_batch_size learning_rate lora_rank lora_alpha
        target_modules freeze_vit freeze_aligner freeze_llm gradient_accumulation_steps eval_steps save_steps
        save_total_limit logging_steps max_length output_dir system warmup_ratio dataloader_num_workers
        dataset_num_proc vit_lr aligner_lr vit_gradient_checkpointing attn_impl deepspeed quant_method quant_bits
        bnb_4bit_compute_dtype max_pixels padding_free packing strict lazy_tokenize truncation_strategy model_author
        max_new_tokens temperature adapters external_plugins custom_dataset_info sequence_parallel_size use_hf
    """,
    "accelerate's own file": """
        compute_environment distributed_type mixed_precision num_processes num_machines machine_rank gpu_ids use_cpu
        main_training_function downcast_bf16 rdzv_backend same_network deepspeed_config main_process_port debug
        dynamo_config enable_cpu_affinity tpu_env tpu_use_cluster tpu_use_sudo
    """,
}


def read(folder: Path, text: str) -> Settings:
    (folder / "theirs.yaml").write_text(text)
    return resolve_settings(["--config", "theirs.yaml"], {}, folder=folder)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), ".")


@pytest.mark.slow
def test_every_field_of_the_installed_libraries_is_answered() -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, TrainingArguments
    from trl import ModelConfig, SFTConfig

    found = {field.name for kind in (TrainingArguments, SFTConfig, LoraConfig, ModelConfig) for field in fields(kind)}
    found |= set(inspect.signature(BitsAndBytesConfig).parameters) - {"kwargs"}
    assert len(found) > 150
    assert sorted(found - ANSWERED) == []


@pytest.mark.parametrize("trainer", COMMONEST)
def test_the_commonest_keys_of_other_trainers_are_answered(trainer: str) -> None:
    assert [name for name in COMMONEST[trainer].split() if name not in ANSWERED] == []


def test_each_name_is_answered_once() -> None:
    names = [entry.partition("=")[0] for listed in REASONS.values() for entry in listed.split()]
    assert len(names) == len(set(names)) == len(NEEDLESS)
    assert not set(names) & {*SETTINGS, LORA, *OURS}


@pytest.mark.parametrize("text", [TUTORIAL, LLAMA_FACTORY, AXOLOTL], ids=["tutorial", "LLaMA-Factory", "Axolotl"])
def test_a_file_of_the_tutorial_or_of_another_trainer_is_taken_whole(text: str, tmp_path: Path) -> None:
    settings = read(tmp_path, text)
    rank = {TUTORIAL: (64, 128), LLAMA_FACTORY: (8, 16), AXOLOTL: (32, 16)}[text]
    assert (settings.values["lora_r"], settings.values["lora_alpha"]) == rank
    assert (settings.values["quantization"], settings.values["vision"]) == ("nf4", "frozen")
    # Each line is one of our settings by our own name and words, or a notice has its name.
    told = " ".join(settings.notices)
    for line in text.strip().splitlines():
        name = line.partition(":")[0].strip()
        silent = name in SETTINGS or line.endswith(":") or name == "use_reentrant"
        assert silent or f" {name}" in told, name


def test_names_that_are_dropped_for_one_reason_share_a_notice(tmp_path: Path) -> None:
    assert read(tmp_path, "bf16: true\nuse_peft: true\ntorch_dtype: auto\n").notices == (
        f"{tmp_path}/theirs.yaml: bf16, torch_dtype are not needed: GPUs compute in bf16, adapters are kept in fp32",
        f"{tmp_path}/theirs.yaml: use_peft is not needed: runs train LoRA adapters",
    )


def test_what_a_default_file_says_of_what_every_run_has_is_dropped(tmp_path: Path) -> None:
    text = "debug: false\ndynamo_config: {}\nenable_cpu_affinity: false\ntpu_env: []\ntpu_use_cluster: false\n"
    said = " ".join(read(tmp_path, f"{text}tpu_use_sudo: false\ntemperature: 0.0\ntop_p: 1.0\n").notices)
    names = ["debug", "dynamo_config", "enable_cpu_affinity", "tpu_env", "tpu_use_sudo", "temperature", "top_p"]
    assert [name for name in names if name not in said] == []
    assert refusal(tmp_path, "tpu_use_cluster: true").startswith("./theirs.yaml: tpu_use_cluster is not a setting here")


def test_all_that_is_wrong_with_a_file_is_one_message_that_says_back_no_token(tmp_path: Path) -> None:
    text = "max_steps: 0\nfsdp: full_shard\nhub_token: hf_Secret\ndeepspeed: z3.json\nbf16: true\nmax_step:\n"
    assert refusal(tmp_path, text) == (
        "./theirs.yaml: max_steps=0: takes a whole number from 1 to 10000000; "
        "fsdp, deepspeed are no settings here: the plan takes one of the files in accelerate_configs/: CONFIG= names "
        "another; hub_token is not a setting here: nothing is uploaded while training: the adapter lies in the run's "
        "folder; unknown 'max_step', did you mean max_steps? python -m trainer config --help lists all"
    )


def test_what_several_sources_say_wrong_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("seed: x\n")
    with pytest.raises(ConfigError) as caught:
        resolve_settings(["--config", "theirs.yaml", "--lora", "0"], {"BATCH_SIZE": "0"}, folder=tmp_path)
    assert str(caught.value).replace(str(tmp_path), ".") == (
        "./theirs.yaml: seed=x: takes a whole number from 0 to 4294967295; environment: BATCH_SIZE=0: takes a whole "
        "number from 1 to 4096; --lora=0: takes high, medium, low or a rank, a whole number from 1 to 1024"
    )


def test_dashes_and_capitals_of_a_name_are_read(tmp_path: Path) -> None:
    settings = read(tmp_path, "learning-rate: 1e-3\nLORA-R: 8\nper-device-train-batch-size: 2\nweight-decay:\n")
    assert {name for name, source in settings.sources.items() if source.endswith("theirs.yaml")} == {
        "learning_rate", "lora_r", "micro_batch_size"
    }  # fmt: skip
    assert (settings.values["learning_rate"], settings.values["lora_r"]) == (1e-3, 8)
    assert settings.notices[0].endswith(": learning-rate=1e-3 is learning_rate=1e-3 here")


def test_what_stands_below_a_heading_is_checked_too(tmp_path: Path) -> None:
    text = "training: {max_steps: 0, fsdp: full}\nlora_config:\n  lora_apha: 3\nmodel: {name: x}\nbf16: true\n"
    assert refusal(tmp_path, text) == (
        "./theirs.yaml: max_steps=0: takes a whole number from 1 to 10000000; fsdp is not a setting here: the plan "
        "takes one of the files in accelerate_configs/: CONFIG= names another; training, lora_config, model are "
        "headings here: write the lines below at the top level; unknown 'lora_apha', did you mean lora_alpha?; unknown "
        "'name', did you mean run_name? python -m trainer config --help lists all"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CUDA_VISIBLE_DEVICES: 0\nWANDB_MODE: offline\n",
         "CUDA_VISIBLE_DEVICES, WANDB_MODE are no settings here: this belongs in .env"),
        ("HUGGINGFACE_TOKEN: hf_Secret\n",
         "HUGGINGFACE_TOKEN is not a setting here: tokens belong into .env: HF_TOKEN, WANDB_API_KEY"),
        ("GPUS: 2\nvram: 24\n",
         "GPUS, vram are no settings here: GPUs, nodes and the effective batch belong on make's command line: "
         "make plan GPUS=2 VRAM=24 EFFECTIVE_BATCH=8"),
        ("program: x\nmethod: bayes\nparameters: {lr: {min: 0}}\n",
         "program, method, parameters are no settings here: a sweep's file is given as SWEEP="),
    ],
    ids=["for .env", "a token", "for make", "a sweep"],
)  # fmt: skip
def test_what_belongs_in_another_place_says_which(text: str, said: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text) == f"./theirs.yaml: {said}"


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("use_gradient_checkpointing: unsloth", "activation_checkpointing", True),
        ("random_state: 3407", "seed", 3407), ("freeze_vit: true", "vision", "frozen"),
        ("split_dataset_ratio: 0.2", "eval_fraction", 0.2), ("quant_bits: 4", "quantization", "nf4"),
        ("warmup_steps: 0.03", "warmup_fraction", 0.03), ("warmup_steps: 0", "warmup_fraction", 0.0),
        ("use_cpu: true", "device", "cpu"), ("mask_history: true", "learn", "last"),
        ("freeze_vision_tower: false", "vision", "lora"), ("run_name: mine", "run_id", "mine"),
        ("adapter_name_or_path: runs/a", "init_adapter", "runs/a"), ("quantization_bit: 4", "quantization", "nf4"),
    ],
)  # fmt: skip
def test_another_name_with_another_word_is_translated(line: str, name: str, value: object, tmp_path: Path) -> None:
    settings = read(tmp_path, line)
    assert settings.values[name] == value
    assert len(settings.notices) == 1 and f" is {name}=" in settings.notices[0]


@pytest.mark.parametrize(
    ("line", "targets"),
    [
        ("target_modules: all-linear", "all"),
        ("target_modules: [all-linear]", "all"),
        ("target_modules: [q_proj, v_proj]", "q_proj,v_proj"),
        ("lora_target_modules:\n- q_proj\n- v_proj", "q_proj,v_proj"),
        ("lora_target: q_proj, v_proj", "q_proj,v_proj"),
        ("lora_target: all", "all"),
    ],
)
def test_targets_of_other_trainers_are_ours(line: str, targets: str, tmp_path: Path) -> None:
    settings = read(tmp_path, line)
    assert settings.values["lora_targets"] == targets
    assert [notice.rpartition(" is ")[2] for notice in settings.notices] == [f"lora_targets={targets} here"]


def test_an_expression_for_targets_is_refused_with_what_is_taken(tmp_path: Path) -> None:
    assert refusal(tmp_path, "target_modules: .*language_model.*proj") == (
        "./theirs.yaml: target_modules='.*language_model.*proj': takes all, attention, or names with commas between"
    )


def test_warmup_in_steps_is_refused_with_what_to_give(tmp_path: Path) -> None:
    assert refusal(tmp_path, "warmup_steps: 100") == (
        "./theirs.yaml: warmup_steps is not a setting here: give warmup_fraction, the share of max_steps"
    )
