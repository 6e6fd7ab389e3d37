"""Settings of other trainers that Trainyard does not have: the reason, and the values that describe every run anyway.

Every field of TrainingArguments, SFTConfig, LoraConfig and BitsAndBytesConfig is either a setting (its name is in the
column `also` of trainer/config.py) or has its reason below; tests/unit/trainer/test_other_trainers.py checks that
against the installed libraries. The other names are the commonest keys of TRL's command line, LLaMA-Factory,
Axolotl, Unsloth, ms-swift and accelerate's own files.
"""

from __future__ import annotations

# Each name with the values, separated by |, that are ignored with a notice; `*` means any value. All other values are
# refused with the reason above them.
ANY = "*"
# The reason for a name above settings, in other trainers' files and in every other file.
SECTION = "write the lines below at the top level"
REASONS: dict[str, str] = {
    "GPUs compute in bf16, adapters are kept in fp32": """
        torch_dtype=auto|bfloat16|bf16|torch.bfloat16 dtype=auto|bfloat16|bf16|torch.bfloat16 bf16=true|auto
        fp16=false pure_bf16=false bf16_full_eval=false fp16_full_eval=false float16=false bfloat16=true tf32=*
        upcast_layernorm=false mixed_precision=bf16 lora_dtype=auto|float32|fp32 embeddings_skip_upcast=*""",
    "the schedule is a warm-up and a cosine": """
        lr_scheduler_type=cosine lr_scheduler=cosine lr_scheduler_kwargs={} cosine_min_lr_ratio
        cosine_constant_lr_ratio""",
    "give warmup_fraction, the share of max_steps": "warmup_steps",
    "runs are counted in optimizer steps: give max_steps, which is epochs x records / effective batch": """
        num_train_epochs epochs num_epochs""",
    "give eval_steps and save_steps": "evals_per_epoch saves_per_epoch",
    "AdamW has its usual betas and epsilon, and one learning rate": """
        adam_beta1=0.9 adam_beta2=0.999 adam_epsilon=1e-8|1e-08 optim_args optim_target_modules
        loraplus_lr_ratio loraplus_lr_embedding use_galore=false use_badam=false embedding_learning_rate vit_lr
        aligner_lr mm_projector_lr lorap_lr_ratio galore_rank""",
    "the loss is the cross-entropy of the answers, averaged over their tokens on all GPUs": """
        loss_type=nll average_tokens_across_devices=true label_smoothing_factor=0|0.0 completion_only_loss=true
        assistant_only_loss=true train_on_inputs=false train_on_prompt=false label_names router_aux_loss_coef
        neftune_noise_alpha roles_to_train ignore_pad_token_for_loss=true loss_scale=default
        noisy_embedding_alpha""",
    "checkpointing is on the language model alone, never reentrant, where the plan needs it": """
        activation_checkpointing_kwargs={'use_reentrant':'false'}
        gradient_checkpointing_kwargs={'use_reentrant':'false'} vit_gradient_checkpointing=false
        use_unsloth_gc=false disable_gradient_checkpointing=false""",
    "models are not compiled": "torch_compile=false torch_compile_backend torch_compile_mode dynamo_config={}",
    "logits are computed at the answers' positions alone": """
        use_liger_kernel=false liger_kernel_config plugins enable_liger_kernel=false liger_rope=false
        liger_rms_norm=false liger_glu_activation=false liger_fused_linear_cross_entropy=false
        cut_cross_entropy=false flash_attn_cross_entropy=false flash_attn_rms_norm=false use_logits_to_keep=*""",
    "training keeps no cache of keys and values": "use_cache=false",
    "memory is planned, so there is nothing to try out": """
        auto_find_batch_size=false torch_empty_cache_steps activation_offloading=false low_cpu_mem_usage=*
        gpu_memory_limit gpu_memory_utilization=* lora_on_cpu=*""",
    "the log has a line for the first step and one every logging_steps": """
        logging_strategy=steps logging_first_step=true logging_nan_inf_filter=* log_on_each_node=* log_level=*
        log_level_replica=* disable_tqdm=* include_num_input_tokens_seen=* skip_memory_metrics=* debug=false
        plot_loss=* eval_table_size include_tokens_per_second=* print_param_status=*""",
    "W&B and TensorBoard are always written; WANDB_MODE=offline or disabled in .env keeps W&B off the network": """
        report_to=wandb|tensorboard|all|['wandb']|['tensorboard']|['wandb','tensorboard']|['tensorboard','wandb']
        trackio_space_id trackio_bucket_id trackio_static_space_id use_wandb=true use_tensorboard=true
        use_swanlab=false swanlab_project mlflow_tracking_uri""",
    "the folder of TensorBoard's files is the run's": "logging_dir",
    "W&B reads WANDB_PROJECT, WANDB_ENTITY, WANDB_WATCH and the like from .env": """
        project wandb_project wandb_entity wandb_watch wandb_log_model wandb_name wandb_run_id""",
    "there is an evaluation every eval_steps and at the last step": """
        eval_strategy=steps evaluation_strategy=steps eval_delay=0 eval_on_start=false do_eval=* do_train=true
        do_predict=false eval_at_start=false""",
    "an evaluation takes as many records at once as the free memory holds": """
        per_device_eval_batch_size=* eval_batch_size=* eval_accumulation_steps=* eval_do_concat_batches=*
        eval_use_gather_object=*""",
    "the held-out loss, action accuracy and F1 are computed by the trainer": """
        prediction_loss_only=false include_for_metrics batch_eval_metrics=* compute_accuracy=*
        predict_with_generate=* metric acc_strategy=* eval_on_each_dataset=false""",
    "answers are written greedily to their end, with room for the true ones": """
        max_new_tokens eval_max_new_tokens temperature=0|0.0 top_p=1|1.0 top_k do_sample=false num_beams=1""",
    "make infer asks a trained model, and make merge writes its 16-bit weights": """
        infer_backend fast_inference=false export_dir save_method""",
    "a checkpoint comes every save_steps and at the last step, with all that going on needs": """
        save_strategy=steps save_only_model=false save_on_each_node=false save_safetensors=true
        save_first_step=false resume_only_model=false create_checkpoint_symlink=false safe_serialization=true
        max_shard_size=*""",
    "a stop saves a checkpoint, and a resumed run goes on exactly where it was": """
        enable_jit_checkpoint=* ignore_data_skip=false restore_callback_states_from_checkpoint=*
        auto_resume_from_checkpoints=*""",
    "make resume RUN=... goes on with a run; init_adapter starts from its adapter": "resume_from_checkpoint adapters",
    "no run writes over another: RUN= names a new one": "overwrite_output_dir=false",
    "nothing is uploaded while training: the adapter lies in the run's folder": """
        push_to_hub=false hub_token hub_private_repo=* hub_model_id hub_strategy=* hub_always_push=false
        hub_revision push_dataset_to_hub""",
    "tokens belong into .env: HF_TOKEN, WANDB_API_KEY": """
        token hf_token hf_hub_token use_auth_token wandb_api_key hf_use_auth_token huggingface_token""",
    "the adapter of the best evaluation is kept, by action accuracy and then by loss": """
        load_best_model_at_end=* greater_is_better=* metric_for_best_model=action_accuracy|eval_action_accuracy""",
    "seed decides everything that is drawn, the records' random order too": """
        data_seed full_determinism=false length_column_name=* shuffle_dataset=* disable_shuffling=false
        shuffle_merged_datasets=* dataset_shuffle=true train_dataloader_shuffle=true curriculum_sampling=false
        shuffle_buffer_size=* buffer_size=*""",
    "the plan takes one of the files in accelerate_configs/: CONFIG= names another": """
        accelerator_config parallelism_config fsdp fsdp_config deepspeed local_rank=* device_map=auto
        fsdp_version=* sequence_parallel_size=1 context_parallel_size=1 quantization_device_map ray_run_name
        ray_num_workers use_kt=false compute_environment distributed_type num_processes num_machines
        machine_rank main_training_function main_process_ip main_process_port deepspeed_config rdzv_backend
        same_network gpu_ids downcast_bf16 tpu_env=[] tpu_use_cluster=false tpu_use_sudo=false
        enable_cpu_affinity=false""",
    "accelerate sets up the processes' communication": """
        ddp_find_unused_parameters=* ddp_bucket_cap_mb=* ddp_broadcast_buffers=* ddp_static_graph=* ddp_backend=*""",
    "the trainer decides on worker processes; results do not depend on them": """
        dataloader_num_workers=* dataloader_pin_memory=* dataloader_persistent_workers=*
        dataloader_prefetch_factor=* dataloader_multiprocessing_context=* dataloader_in_order=*
        dataset_num_proc=* preprocessing_num_workers=* dataset_processes=* num_workers=* lazy_preprocess=*
        lazy_tokenize=*""",
    "all records are used, none is dropped to fill a batch": """
        dataloader_drop_last=false max_samples dataset_streaming=false streaming=false dataset_shards
        mix_strategy=concat interleave_probs interleave_prob stopping_strategy=*""",
    "records are read in the forms of docs/your-data.md, as they are": """
        remove_unused_columns=* dataset_text_field=text|messages dataset_kwargs={'skip_prepare_dataset':'true'}
        skip_prepare_dataset=* dataset_prepared_path=* overwrite_cache=* preprocessing_batch_size=* dataset_dir
        dataset_config formatting tokenized_path load_from_cache_file=* download_mode=* use_hf=* load_args=*
        system default_system tool_format agent_template custom_dataset_info custom_register_path norm_bbox=*""",
    "data names a folder with train.jsonl and, if there is one, eval.jsonl": """
        datasets eval_dataset test_datasets train_file validation_file dataset_train_split=train
        dataset_test_split train_dataset val_dataset val_file split""",
    "samples are not packed, and batches are padded to a multiple of 8": """
        packing=false neat_packing=false eval_packing=false sample_packing=false eval_sample_packing=false
        packing_strategy=* padding_free=false pad_to_multiple_of=auto|8 pad_to_sequence_len=* packing_length=*""",
    "longer records are left out, never cut: give max_length": """
        truncation_mode=* excess_length_strategy=drop truncation_strategy=delete""",
    "the model's own processor, tokenizer and chat template are used": """
        tokenizer processing_class processor_type=* tokenizer_type=* model_type=* use_fast_tokenizer=*
        chat_template=tokenizer_default chat_template_path template=* eos_token pad_token special_tokens
        resize_vocab=false enable_thinking=* image_max_pixels image_min_pixels video_max_pixels max_pixels
        min_pixels image_size image_resize_algorithm image_aspect_ratio crop_to_image=false
        use_audio_in_video=false template_backend=* response_prefix padding_side=* tokenizer_use_fast=*
        tokenizer_config new_special_tokens split_special_tokens=false chat_template_jinja tokens data_collator""",
    "a model is loaded as it was published": """
        model_init_kwargs revision=main model_revision=main rope_scaling cache_dir model_kwargs
        ignore_bias_buffers=false base_model_config revision_of_model is_llama_derived_model=* max_model_len
        model_author add_version=* check_model=*""",
    "code that comes with a model or with data is never run": "trust_remote_code=false external_plugins",
    "attention is sdpa: eager's losses for less memory; flash ignores the image mask": """
        attn_implementation=sdpa|eager flash_attention=false sdp_attention=true eager_attention=true
        xformers_attention=false flash_attn=auto|sdpa|disabled use_flash_attention_2=false use_unsloth=false
        attn_impl=sdpa|eager sdp=true flex_attention=false s2_attention=false shift_attn=false""",
    "runs train LoRA adapters": """
        use_peft=true adapter=lora|qlora finetuning_type=lora stage=sft rl peft_type=lora task_type=causal_lm
        lora_task_type=causal_lm inference_mode=false auto_mapping peft_version=* train_type=lora
        tuner_type=lora tuner_backend=peft sft_type=lora lora_enable=true full_finetuning=false
        create_new_adapter=false freeze_backbone=true num_labels ref_model pref_beta pref_loss""",
    "lora_targets names the linears of the language model that get adapters, in all layers alike": """
        lora_target_linear=true exclude_modules target_parameters lora_target_parameters layers_to_transform
        layers_pattern layer_replication lora_mlp_kernel=* lora_qkv_kernel=* lora_o_kernel=* target_regex
        finetune_language_layers=true finetune_attention_modules=true finetune_mlp_modules=true
        freeze_llm=false freeze_language_model=false tune_mm_llm=true""",
    "every adapter has the same rank and alpha, and their output is scaled by alpha / rank": """
        rank_pattern={} alpha_pattern={} use_rslora=false peft_use_rslora=false""",
    "vision takes frozen or lora, for image tower and projector together": """
        finetune_vision_layers=false tune_mm_vision=false tune_mm_mlp_adapter=false train_mm_proj_only=false
        freeze_aligner=true freeze_multi_modal_projector=true vision_tower""",
    "nothing but the adapters' two matrices is trained": """
        bias=none lora_bias=false|none modules_to_save=[] lora_modules_to_save=[] trainable_token_indices
        additional_target unfrozen_parameters ensure_weight_tying=false freeze_trainable_layers
        freeze_parameters freeze_parameters_ratio trainable_parameters additional_trainable_parameters""",
    "adapters begin as in the paper of LoRA: one matrix random, the other zero": """
        init_lora_weights=true loftq_config={} eva_config corda_config lora_ga_config pissa_init=false
        init_weights=true""",
    "LoRA is offered without its variants": """
        use_dora=false use_qalora=false qalora_group_size=* use_bdlora arrow_config kasa_config velora_config
        monteclora_config alora_invocation_tokens fan_in_fan_out=false megatron_config megatron_core=*
        runtime_config=* relora_steps peft_use_dora=false lora_fan_in_fan_out=false max_lora_rank""",
    "4 bits means NF4 with double quantization, computed in bf16; quantization takes nf4 or none": """
        load_in_8bit=false _load_in_4bit=true _load_in_8bit=false bnb_4bit_quant_type=nf4
        bnb_4bit_use_double_quant=true use_bnb_nested_quant=true double_quantization=true quantization_type=nf4
        bnb_4bit_quant_storage=* bnb_4bit_compute_dtype=bfloat16|bf16|torch.bfloat16|auto
        quant_method=bnb|bitsandbytes quantization_method=bnb|bitsandbytes llm_int8_threshold=*
        llm_int8_has_fp16_weight=false llm_int8_enable_fp32_cpu_offload=false load_in_16bit=false
        quant_type=nf4 double_quant=true""",
    "the language model's linears are quantized, nothing else": "llm_int8_skip_modules",
    "GPUs, nodes and the effective batch belong on make's command line: make plan GPUS=2 VRAM=24 EFFECTIVE_BATCH=8": """
        gpus num_gpus n_gpu nodes num_nodes vram gpu_type effective_batch effective_batch_size""",
    "a sweep's file is given as SWEEP=": "program method parameters",
    SECTION: """
        peft_config lora_config quantization_config bnb_config training_args training_arguments sft_config""",
}


def _by_name() -> dict[str, tuple[tuple[str, ...], str]]:
    found = {}
    for reason, names in REASONS.items():
        for entry in names.split():
            name, _, values = entry.partition("=")
            found[name] = (tuple(values.split("|")) if values else (), reason)
    return found


NEEDLESS: dict[str, tuple[tuple[str, ...], str]] = _by_name()
"""By name: (values that are ignored, why the name is no setting)."""
