"""The batch shell's own lines, on the first node: those before the tasks, and the end of the job after them. The
shell is practically a login shell: `--export=NONE` makes slurmd read the person's login files."""

from __future__ import annotations

import shlex

from planner.job import JobSpec
from planner.request.variables import DEFAULT_OUTPUT
from trainer.node.stop import DEADLINE_ENV, LEAD_ENV, stop_lead_s
from trainer.outcome import BAD_CONFIG, FAILED, FINISHED, RUN_AGAIN, STATUS_FILE_ENV

# Below the range that Linux assigns by itself (32768 and up), above Slurm's own ports.
PORT_BASE, PORT_COUNT = 10_000, 20_000

# An array's member by both its numbers: a requeue by its plain id would bring back every other member too.
JOB_ID = ('job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"', 'job="${job:-$SLURM_JOB_ID}"')

OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_JWT", "SLURM_SACK_")
"""Beginnings of the variables that say where the cluster is and who asks; all other variables of Slurm's are
options."""

# Slurm's variables that say where the cluster is, and those that slurmd gives to every job. They are listed by name,
# because all others that begin with SLURM_ are options of srun.
OF_THE_JOB = (
    (*(f"{name}*" for name in OF_THE_CLUSTER), "SLURM_CLUSTER_NAME", "SLURM_WORKING_CLUSTER", "SLURM_SPANK_*"),
    ("SLURM_JOB*", "SLURM_ARRAY_*", "SLURM_SUBMIT_*", "SLURM_RESTART_COUNT", "SLURM_TOPOLOGY_*", "SLURM_STEPMGR"),
    ("SLURM_NODE*", "SLURM_NNODES", "SLURM_NPROCS", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
    ("SLURM_*_ON_NODE", "SLURM_CPUS_PER_TASK"),
)

# Programs that the script calls, and that a login file may have replaced by a function.
PROGRAMS = ("squeue", "scontrol", "srun", "date", "mktemp", "read", "rm", "sleep", "head")


def login_lines(spec: JobSpec) -> list[str]:
    """Lines that undo what login files set for Slurm's programs and for Python, and a TMPDIR that only the login node
    has."""
    # sbatch's options reach srun as such variables, and override those of the login files. --gres does not.
    flags = [flag.removeprefix("--").partition("=")[0] for flag in spec.slurm.extra_flags]
    flags = [flag for flag in flags if flag != "gres"]
    flags += ["mem-per-node"] * spec.resources.ask_mem + ["gpus-per-node"] * (spec.slurm.gpu_flag == "gpus-per-node")
    asked = tuple(f"SLURM_{flag.upper().replace('-', '_')}*" for flag in flags)
    return [
        "# Login files are written for a person's shell. Here they would steer Python and what this script asks Slurm.",
        'unset "${!PYTHON@}" "${!SQUEUE_@}" "${!SCONTROL_@}" "${!SRUN_@}" SLURMD_DEBUG',
        f"unset -f {' '.join(PROGRAMS)}",
        'for name in "${!SLURM_@}"; do',
        "  case $name in",
        *(f"    {' | '.join(names)}) ;;" for names in (*OF_THE_JOB, asked) if names),
        '    *) unset "$name" ;;',
        "  esac",
        "done",
        'if [ ! -d "${TMPDIR:-/tmp}" ] || [ ! -w "${TMPDIR:-/tmp}" ]; then',
        '  echo "trainyard: TMPDIR=${TMPDIR:-/tmp} is not to be written on this node: /tmp is taken" >&2',
        "  unset TMPDIR",
        "fi",
    ]


def task_lines(spec: JobSpec, status_file: str) -> list[str]:
    """The lines that every task runs; `status_file` is shell text, the path of the file as the tasks see it."""
    lines = [
        "# This shell outlives a SIGTERM, to see how the tasks end. They are to have stopped before the job's end.",
        "trap : TERM",
        *JOB_ID,
        "status_file=$(mktemp)",
        f"{STATUS_FILE_ENV}={status_file}",
        "# In seconds since 1970. Slurm says it itself from 24.11 on. What is no time to come is not known.",
        'end=$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$job" --states=all --format=%e || true)',
        "end=${SLURM_JOB_END_TIME:-$end}",
        "case $end in '' | *[!0-9]*) end=0 ;; esac",
        'if [ "$end" -le "$(date +%s)" ]; then end=; fi',
        f"{DEADLINE_ENV}=$end",
        f"{LEAD_ENV}={stop_lead_s(spec.resources.time_limit_min)}",
        f"export {STATUS_FILE_ENV} {DEADLINE_ENV} {LEAD_ENV}",
    ]
    if spec.resources.nodes > 1:
        lines += [
            "# Where the nodes meet: on the first one, at a port that two jobs seldom share.",
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"MASTER_PORT=$(({PORT_BASE} + SLURM_JOB_ID % {PORT_COUNT}))",
            "export MASTER_ADDR MASTER_PORT",
        ]
    return lines


def module_lines(spec: JobSpec) -> list[str]:
    """Lines that load the modules, or end with 78."""
    if not spec.slurm.modules:
        return []
    names = shlex.join(spec.slurm.modules)
    return [
        "# Before set -eu, which modules' own code is not written for. module is a shell function: a batch shell",
        "# that was not a login shell may have to read it first.",
        "if ! command -v module >/dev/null 2>&1; then",
        '  for file in "${LMOD_PKG:-}/init/bash" "${MODULESHOME:-}/init/bash" /etc/profile.d/*lmod.sh \\',
        "    /etc/profile.d/modules.sh; do",
        "    # shellcheck source=/dev/null",
        '    if [ -r "$file" ]; then . "$file"; break; fi',
        "  done",
        "fi",
        f"if ! module load {names}; then",
        f'  echo "trainyard: module load {names} failed: see module avail, and MODULES or the site file" >&2',
        f"  exit {BAD_CONFIG}",
        "fi",
    ]


def retry_lines(spec: JobSpec) -> list[str]:
    """The lines after the tasks. srun's own code is not enough: 0 was seen after a node had been set down."""
    # An array's members are resumed together, by the sweep's id.
    words = [f"RUN={spec.run_id.removesuffix('-%a')}"]
    words += [shlex.quote(f"OUTPUT={spec.output}")] * (spec.output != DEFAULT_OUTPUT)
    resume = shlex.quote(f": make resume {' '.join(words)}")
    return [
        "status=",
        'read -r status <"$status_file" || true',
        'rm -f "$status_file"',
        "# Found by another node than the first, whose task srun then told to stop.",
        f'if [ "${{ended:-0}}" = {BAD_CONFIG} ]; then status={BAD_CONFIG}; fi',
        f'if [ "$status" = {RUN_AGAIN} ]; then',
        "  # Not when Slurm requeues the job itself, nor when it was cancelled: that would bring it back. A job that a",
        "  # preemption has ended, and no scancel, has both times alike, or a second between them. No answer decides",
        "  # nothing: Slurm is asked again.",
        "  for pause in 5 15 40 0; do",
        '    answer=$(squeue --noheader --jobs="$job" --states=all '
        "--Format='State:|,Reason:|,PreemptTime:|,EndTime:|') || true",
        "    IFS='|' read -r state reason preempted over _ <<<\"$answer\"",
        "    if [[ $state/$preempted/$over == COMPLETING/[0-9]*/[0-9]* ]] &&",
        '      (($(date -d "$over" +%s) - $(date -d "$preempted" +%s) < 2)); then state=PREEMPTED; fi',
        '    why="squeue does not answer"',
        "    case $state/$reason in",
        "      RUNNING/* | PREEMPTED/* | */TimeLimit)",
        '        if scontrol requeue "$job"; then break; fi',
        '        why="scontrol does not requeue the job" ;;',
        "      ?*/*) break ;;",
        "    esac",
        f'    if [ "$pause" = 0 ]; then echo "trainyard: $why"{resume} >&2; fi',
        '    sleep "$pause"',
        "  done",
        "fi",
        "# Slurm 24.11 requeues a job that was told of a preemption, in this attempt or an earlier one, when it ends",
        "# by itself, also one that has nothing left to do or would fail for ever. A killed one has said nothing.",
        f'case $status in {FINISHED} | {FAILED} | {BAD_CONFIG}) scontrol update jobid="$job" requeue=0 || true ;; esac',
        'exit "${status:-1}"',
    ]
