# One command a target. Variables count only when given on the command line (make plan GPUS=2), never from the
# environment; they are listed by `make help`, read and checked by planner/request/variables.py.

.DEFAULT_GOAL := help
# Whatever make itself works with is `override`: nobody's command line changes what a recipe runs.
override SHELL := /bin/sh
override given := $(sort $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v)))

# For the job, as the table of variables has them: one a line, its name first.
override VARIABLES := $(shell sed -n 's/^    Variable."\([A-Z_]*\)",.*/\1/p' planner/request/variables.py)
# For make itself: the scheduler, the flavour of torch that demo, run, test and image use, the Python to build with,
# the program that works with images, what infer is asked, the folder that convert writes.
override OWN := TO TORCH PYTHON DOCKER PICTURES QUESTION CONTEXT RECORDS OUT MINUTES REHEARSE

override unknown := $(filter-out $(VARIABLES) $(OWN),$(given))

# make would export these with their values expanded, that is, run the $(shell ...) in them. So they are not
# exported; our own copies are, taken as they were typed, and no recipe mentions a value.
unexport $(given)
$(foreach v,$(filter $(VARIABLES) $(OWN),$(given)),$(eval export TRAINYARD_$v := $$(value $v)))
override export TRAINYARD_GIVEN := $(filter-out $(OWN),$(given))
# Errors and advice are then in make's words.
override export TRAINYARD_TYPED := make

# A scheduler is a folder of that name: docs/add-a-scheduler.md.
override SCHEDULERS := slurm k8s local
override asked := $(if $(filter TO,$(given)),$(value TO),slurm)
# One of our own words, whatever was typed.
override BACKEND := $(if $(filter 1,$(words $(asked))),$(filter $(SCHEDULERS),$(asked)))
ifeq ($(BACKEND),)
$(error TO=$(value TO): takes one of $(SCHEDULERS))
endif
override says_to = $(and $(filter TO,$(given)),$(filter $(1),$(MAKECMDGOALS)),$(filter-out $(2),$(BACKEND)))
ifneq ($(call says_to,run hardware docker-run,local),)
$(error TO=$(BACKEND): run, hardware and docker-run are for this machine: leave TO out, or make submit TO=$(BACKEND))
endif
ifneq ($(call says_to,claim,k8s),)
$(error TO=$(BACKEND): a claim is for TO=k8s: leave TO out)
endif
ifneq ($(call says_to,site,slurm k8s),)
$(error TO=$(BACKEND): a site file is for clusters: make hardware shows what this machine has)
endif
ifneq ($(and $(filter OUT,$(given)),$(filter-out convert,$(MAKECMDGOALS))),)
$(error OUT=$(value OUT): only make convert takes it: leave OUT out)
endif
ifneq ($(and $(filter MINUTES,$(given)),$(filter-out soak,$(MAKECMDGOALS))),)
$(error MINUTES=$(value MINUTES): only make soak takes it: leave MINUTES out)
endif
ifneq ($(and $(filter REHEARSE,$(given)),$(filter-out gpu-proof,$(MAKECMDGOALS))),)
$(error REHEARSE=$(value REHEARSE): only make gpu-proof takes it: leave REHEARSE out)
endif
# Python keeps what it has compiled, also where the environment forbids it, as many images do: compiling all again takes
# as long as the rest of a plan.
unexport PYTHONDONTWRITEBYTECODE
override LAUNCH_VERBS := plan render check submit sweep status logs cancel resume list site claim run hardware docker-run
override LAUNCH := .venv/launch/bin/python -m $(BACKEND)

ifneq ($(unknown),)
ifeq ($(filter $(LAUNCH_VERBS),$(MAKECMDGOALS)),)
$(error unknown $(unknown): known are $(VARIABLES) $(OWN))
endif
endif

# What looks at data and at runs takes these and no others.
override TAKES_validate := MODEL DATA DEVICE MAX_LENGTH CONFIG_FILE
override TAKES_features := MODEL DATA DEVICE OUTPUT CONFIG_FILE
override TAKES_convert := DATA OUT QUESTION
override TAKES_shape := MODEL
override TAKES_infer := RUN OUTPUT PICTURES QUESTION CONTEXT RECORDS
override TAKES_merge := RUN OUTPUT
override TAKES_report := RUN OUTPUT
override TAKES_tensorboard := RUN OUTPUT
override TAKES_gpu-proof := REHEARSE
# The demo takes no variable, since it decides everything itself.
override TAKES_demo :=
override tool := $(firstword $(filter demo validate features convert shape infer merge report tensorboard gpu-proof,$(MAKECMDGOALS)))
ifneq ($(and $(tool),$(filter-out $(TAKES_$(tool)) TORCH PYTHON,$(given))),)
$(error $(filter-out $(TAKES_$(tool)) TORCH PYTHON,$(given)): make $(tool) takes $(or $(TAKES_$(tool)),none): leave it out)
endif
ifneq ($(and $(filter PICTURES QUESTION CONTEXT RECORDS,$(given)),$(filter-out infer convert,$(MAKECMDGOALS) $(if $(MAKECMDGOALS),,help))),)
$(error $(filter PICTURES QUESTION CONTEXT RECORDS,$(given)): only make infer$(if $(filter QUESTION,$(given)), and make convert take, takes) it: leave it out)
endif
# The run's folder as one word of the shell, and the Python that has what training needs.
override OF_RUN := [ -n "$$TRAINYARD_RUN" ] || { echo 'trainyard: RUN= is left out, for example RUN=my-run: make list shows the runs' >&2; exit 78; }; \
  run="$${TRAINYARD_OUTPUT:-runs}/$$TRAINYARD_RUN" && python=$$(sh make-env.sh train)

.PHONY: help demo test test-fast soak lint env plan render check submit sweep status logs cancel resume list site claim run hardware shape image sif lock sbom docker-run pictures golden validate features convert infer merge report tensorboard gpu-proof

# A name that is no command; make's own words would name no list. $(error) is make's, so no shell reads the name.
.DEFAULT:
	$(error no command 'make $@': make help lists them; make run trains on this machine, make submit on a cluster)

help: ## list these commands
	@exec 3>&1; width=110; if [ -t 3 ]; then width=$$(stty size <&3 2>/dev/null | cut -d ' ' -f 2); [ "$${width:-0}" -ge 20 ] || width=80; fi; \
	{ sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile; \
	  printf '\nVariables\t%s\n\t%s\n\t%s\n' 'for example make plan GPUS=2 VRAM=24: $(VARIABLES)' \
	    'What each means: .venv/launch/bin/python -m slurm (or k8s, or local) --help' \
	    'Also: TORCH=cpu|cuda (which torch is installed for demo, run, test and image), PYTHON=/path/to/python3.11, DOCKER=docker|podman, OUT=folder (convert)'; } | \
	awk -F '\t' -v width="$$width" '{ line = sprintf("  %-16s", $$1); n = split($$2, words, " "); \
	  for (i = 1; i <= n; i++) { if (length(line) + 1 + length(words[i]) > width) { print line; line = sprintf("%18s", "") } \
	    line = line " " words[i] } print line }'

demo: ## train on this machine without GPU, cluster, network or token: a few minutes
	@python=$$(sh make-env.sh train) && exec "$$python" -m examples.demo

run: .venv/launch/.made ## train on this machine, with the same variables as submit
	@.venv/launch/bin/python -m local run

plan: .venv/launch/.made ## explain which configuration fits and why (FORMAT=json for programs)
	@$(LAUNCH) plan

render: .venv/launch/.made ## print the job's script, or its manifest (TO=k8s)
	@$(LAUNCH) render

check: .venv/launch/.made ## ask the cluster whether it would take the job; queues nothing
	@$(LAUNCH) check

submit: .venv/launch/.made ## plan, render and submit; makes the job's environment if it is missing
	@$(LAUNCH) submit

sweep: .venv/launch/.made ## a run for every combination (GRID=), or W&B's trials; without Slurm here, one after another
	@if [ $(BACKEND) != slurm ] || command -v sbatch >/dev/null; then $(LAUNCH) sweep; \
	else .venv/launch/bin/python -m local sweep; fi

status: .venv/launch/.made ## where a run is and what to type next (RUN=; left out: the newest)
	@$(LAUNCH) status

logs: .venv/launch/.made ## print a run's log and follow it until its job has ended (RUN=)
	@$(LAUNCH) logs

cancel: .venv/launch/.made ## cancel a run's job (RUN=)
	@$(LAUNCH) cancel

resume: .venv/launch/.made ## submit an ended run again, into the same folder (RUN=)
	@$(LAUNCH) resume

list: .venv/launch/.made ## all runs
	@$(LAUNCH) list

site: .venv/launch/.made ## draft the cluster's defaults: make site > slurm/site.yaml (TO=k8s: k8s/site.yaml)
	@$(LAUNCH) site

claim: .venv/launch/.made ## print the Kubernetes claim that runs live in: make claim TO=k8s SIZE=200Gi
	@.venv/launch/bin/python -m k8s claim

validate: ## look at the data, the model and this machine before a run does (MODEL= DATA= CONFIG_FILE=)
	@python=$$(sh make-env.sh train) && exec "$$python" -m trainer validate all \
	  $${TRAINYARD_MODEL:+--model "$$TRAINYARD_MODEL"} $${TRAINYARD_DATA:+--data "$$TRAINYARD_DATA"} \
	  $${TRAINYARD_DEVICE:+--device "$$TRAINYARD_DEVICE"} $${TRAINYARD_MAX_LENGTH:+--max_length "$$TRAINYARD_MAX_LENGTH"} \
	  $${TRAINYARD_CONFIG_FILE:+--config "$$TRAINYARD_CONFIG_FILE"}

features: ## let the image tower see every picture once, ahead of all runs on this data and model (MODEL= DATA=)
	@python=$$(sh make-env.sh train) && exec "$$python" -m trainer features \
	  $${TRAINYARD_MODEL:+--model "$$TRAINYARD_MODEL"} $${TRAINYARD_DATA:+--data "$$TRAINYARD_DATA"} \
	  $${TRAINYARD_DEVICE:+--device "$$TRAINYARD_DEVICE"} $${TRAINYARD_OUTPUT:+--output_dir "$$TRAINYARD_OUTPUT/features"} \
	  $${TRAINYARD_CONFIG_FILE:+--config "$$TRAINYARD_CONFIG_FILE"}

convert: ## make records and pictures of a hub data set, parquet, csv, a picture folder (DATA=owner/name OUT=folder)
	@python=$$(sh make-env.sh train) && exec "$$python" -m trainer convert "$$TRAINYARD_DATA" "$$TRAINYARD_OUT" \
	  $${TRAINYARD_QUESTION:+--question "$$TRAINYARD_QUESTION"}

infer: ## ask a trained model: make infer RUN=x PICTURES=a.png,b.png QUESTION="..." (or RECORDS=file.jsonl)
	@$(OF_RUN) && set -f && IFS=, && set -- $$TRAINYARD_PICTURES && unset IFS && exec "$$python" -m trainer infer --run "$$run" \
	  $${TRAINYARD_QUESTION:+--question "$$TRAINYARD_QUESTION"} $${TRAINYARD_CONTEXT:+--context "$$TRAINYARD_CONTEXT"} \
	  $${TRAINYARD_RECORDS:+--records "$$TRAINYARD_RECORDS"} "$$@"

merge: ## put a run's adapter into 16-bit weights, and measure that it still answers as well (RUN=)
	@$(OF_RUN) && exec "$$python" -m trainer merge --run "$$run"

report: ## build a run's report.html again (RUN=); left out: the page that compares all runs
	@python=$$(sh make-env.sh train) && \
	  exec "$$python" -m trainer report "$${TRAINYARD_OUTPUT:-runs}$${TRAINYARD_RUN:+/$$TRAINYARD_RUN}"

tensorboard: ## show a run's curves on a page of this machine (RUN=)
	@$(OF_RUN) && { [ -d "$$run/tensorboard" ] || { echo "trainyard: $$run has no curves: make list shows the runs" >&2; exit 78; }; } && exec "$$python" -m tensorboard.main --logdir "$$run/tensorboard"

shape: ## measure a model that no plan knows yet (MODEL=); then a login node without torch can plan it
	@python=$$(sh make-env.sh train) && exec "$$python" -m trainer shape $${TRAINYARD_MODEL:+--model "$$TRAINYARD_MODEL"}

image: ## build the image (TORCH=cpu for one without CUDA; DOCKER=podman or buildah)
	@sh docker/build.sh

sif: ## build the image and pack it for Apptainer (RUNTIME=apptainer IMAGE=trainyard-....sif)
	@sh docker/sif.sh

lock: ## write the exact dependencies of image and login nodes again, from pyproject.toml
	@python=$$(sh make-env.sh train) && exec "$$python" docker/lock.py

sbom: ## write what is in the image as CycloneDX, from its locks (TORCH=cpu)
	@python=$$(sh make-env.sh train) && exec "$$python" docker/sbom.py

hardware: .venv/launch/.made ## what this machine has to train with, what a run gets of it, and the plan of each card
	@.venv/launch/bin/python -m local hardware

docker-run: .venv/launch/.made ## what run does, in the image (IMAGE=; DOCKER=podman)
	@.venv/launch/bin/python -m local docker-run

env: ## make the environment that jobs use (TORCH=cuda or cpu; left out: what this machine has)
	@sh make-env.sh train

# A third worker has the cores while others wait for Slurm's clocks.
test: ## run all tests; with Slurm installed, real jobs on a test cluster of its own
	@python=$$(sh make-env.sh train) && exec "$$python" -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-fast: ## run the tests that need neither a cluster nor minutes
	@python=$$(sh make-env.sh train) && exec "$$python" -m pytest --numprocesses 2 --dist loadgroup \
	  -m "not slow and not cluster"

soak: ## runs to which faults of every kind happen at random moments, on a Slurm of its own and in pods (MINUTES=30 SEED=0; root)
	@python=$$(sh make-env.sh train) && exec "$$python" tests/soak.py --write $${TRAINYARD_MINUTES:+--minutes "$$TRAINYARD_MINUTES"} \
	  $${TRAINYARD_SEED:+--seed "$$TRAINYARD_SEED"}

lint: ## check style and types
	@python=$$(sh make-env.sh train) && "$$python" -m ruff check . && "$$python" -m ruff format --check . \
	  && "$$python" -m mypy && "$$python" docker/lock.py --check

gpu-proof: ## show in eight minutes what only a GPU can (REHEARSE=1: the same at toy size on the CPU)
	@python=$$(sh make-env.sh train) && exec "$$python" -W ignore -m benchmarks.gpu_proof $${TRAINYARD_REHEARSE:+--rehearse}

pictures: ## draw docs/pictures again: the terminal of a demo, and the pages in Chromium
	@python=$$(sh make-env.sh train) && exec "$$python" -m examples.demo.pictures

golden: ## rewrite the recorded scripts in tests/golden and the output in README.md and docs/
	@python=$$(sh make-env.sh train) && TRAINYARD_REWRITE_GOLDEN=1 "$$python" -m pytest -q tests/golden/test_slurm_script.py tests/golden/test_k8s_manifest.py \
	  tests/golden/test_docs.py tests/golden/test_settings_page.py tests/golden/test_models_page.py tests/golden/test_exit_codes_page.py

.venv/launch/.made: docker/launch.lock make-env.sh
	@sh make-env.sh launch >/dev/null
