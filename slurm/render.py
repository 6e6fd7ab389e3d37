"""Plan -> the text of the sbatch script. The only module that knows submitit.

Pure: the same Plan gives the same bytes. submitit 1.5.4 writes the header and the frame through its own writer
(private, hence the exact pin and the golden files); the job's command is Trainyard's, not one of its pickles.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence

from launcher.scheduler import Batch
from planner.job import JobSpec
from planner.plan import Plan
from slurm.script.runtime import Wrapping, wrapping
from slurm.script.shell import login_lines, module_lines, retry_lines, task_lines
from trainer.node.stop import stop_lead_s
from trainer.outcome import BAD_CONFIG

# Beginnings of lines that submitit always writes and that the script does not need.
UNWANTED_LINES = (
    # Tells submitit's own unpickler where it runs; this job has none.
    "export SUBMITIT_EXECUTOR=",
)


def render(plan: Plan) -> str:
    """The whole script, ending in a newline."""
    spec, wrapped = plan.spec, wrapping([plan])
    setup = [*_heading(spec), *_exports(plan.env), *task_lines(spec, wrapped.status_file), *wrapped.setup]
    return _write(spec, setup, _command(spec, wrapped, _argv_lines(plan.launch.words())), log_id="%j")


def render_array(sweep_id: str, members: Mapping[int, Plan], *, parallel: int) -> str:
    """One script for members of a sweep, by index, of whom at most `parallel` run at once.

    The parts of a member's command and environment that differ are chosen by its index; the rest, and the resources,
    are those of the first member. Members are called `<sweep id>-<index>`.
    """
    plans = list(members.values())
    spec, wrapped = plans[0].spec.but(run_id=f"{sweep_id}-%a"), wrapping(plans)
    env = [pair for pair in plans[0].env if all(pair in plan.env for plan in plans)]
    commands = [_argv_lines(plan.launch.words()) for plan in plans]
    # Options may stand in any order, except that the launcher's come before the module.
    same = len({plan.launch.launcher_words() for plan in plans}) == 1
    shared = [line for line in commands[0] if same and all(line in lines for lines in commands)]
    chosen = ["# What this member has for itself.", 'case "$SLURM_ARRAY_TASK_ID" in']
    for (index, plan), lines in zip(members.items(), commands, strict=True):
        own = _exports([pair for pair in plan.env if pair not in env])
        words = " \\\n      ".join(line for line in lines if line not in shared)
        chosen += [f"  {index})", *(f"    {line}" for line in own), f"    set -- {words}", "    ;;"]
    unknown = f'  *) echo "trainyard: the sweep has no member $SLURM_ARRAY_TASK_ID" >&2; exit {BAD_CONFIG} ;;'
    setup = [
        *_heading(*(plan.spec for plan in plans)),
        *_exports(env),
        *chosen,
        unknown,
        "esac",
        *task_lines(spec, wrapped.status_file),
        *wrapped.setup,
    ]
    return _write(
        spec,
        setup,
        _command(spec, wrapped, [*shared, '"$@"']),
        log_id="%A_%a",
        name=job_name(spec.but(run_id=sweep_id)),
        array=f"{_indices(list(members))}%{parallel}",
    )


def render_batch(batch: Batch) -> str:
    """The script of one run, or of a new sweep's members."""
    if batch.sweep is None:
        return render(batch.plans[0])
    return render_array(batch.name, dict(enumerate(batch.plans)), parallel=batch.sweep.parallel)


def _indices(numbers: Sequence[int]) -> str:
    """`0-5` for consecutive indices, else `1,3,4`."""
    first, last = numbers[0], numbers[-1]
    return f"{first}-{last}" if len(numbers) == last - first + 1 > 1 else ",".join(map(str, numbers))


def _write(spec: JobSpec, setup: list[str], command: str, *, log_id: str, name: str = "", array: str = "") -> str:
    from submitit.slurm.slurm import _make_sbatch_string  # imported late: takes 60 ms, and only this function needs it

    write: Callable[..., str] = _make_sbatch_string
    extra, gpus = dict(_extra(flag) for flag in spec.slurm.extra_flags), gpu_flags(spec)
    if others := extra.pop("gres", ""):  # sbatch takes one list of them
        gpus["gres"] = ",".join(filter(None, (gpus.get("gres"), str(others))))
    flags = {
        "job_name": name or job_name(spec),
        "account": spec.slurm.account,
        "partition": spec.slurm.partition,
        "qos": spec.slurm.qos,
        "nodes": spec.resources.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": spec.resources.cpus,
        "mem": f"{spec.resources.mem_gib}G" if spec.resources.ask_mem else None,
        "time": spec.resources.time_limit_min,
        **gpus,
        "constraint": spec.slurm.constraint,
        "exclude": spec.slurm.exclude,
        "mail_user": spec.slurm.mail_user,
        "mail_type": spec.slurm.mail_type,
    }
    text = write(
        command=command,
        folder=log_dir(spec),
        setup=setup,
        stderr_to_stdout=True,  # a single file to follow
        use_srun=False,  # the command has its own srun line: submitit's would log into a second file
        wckey=spec.slurm.wckey,  # clusters that track wckeys would refuse submitit's own
        additional_parameters={
            **({"exclusive": True} if spec.resources.gpus and spec.slurm.gpu_flag == "none" else {}),
            **extra,
            **({"array": array} if array else {}),
            "chdir": spec.project_dir,
            # No variable of the submitting shell, above all no secret, goes into the job.
            "export": "NONE",
            "output": log_path(spec, job_id=log_id),
            **({"reservation": spec.slurm.reservation} if spec.slurm.reservation else {}),
            **({"clusters": spec.slurm.cluster} if spec.slurm.cluster else {}),
            "requeue": True,  # lets Slurm requeue after preemption or the loss of a node
            # Sent to the tasks, not to this shell: before the time limit, and at once with preempt_send_user_signal.
            "signal": f"USR1@{stop_lead_s(spec.resources.time_limit_min)}",
        },
        teardown=retry_lines(spec),
        **{name: value for name, value in flags.items() if value},
    )
    kept = [line for line in text.split("\n") if not line.startswith(UNWANTED_LINES)]
    return "\n".join(kept).rstrip("\n") + "\n"


def job_name(spec: JobSpec) -> str:
    """The name that squeue shows: the job's name, then the run's id."""
    return spec.run_id if spec.run_id.startswith(spec.name) else f"{spec.name}-{spec.run_id}"


def gpu_flags(spec: JobSpec) -> dict[str, str]:
    """The flag that asks for GPUs on each node, in the form that the site prefers; empty when whole nodes include
    them."""
    resources = spec.resources
    kind = f"{resources.gpu_type}:" if resources.gpu_type else ""
    if not resources.gpus or spec.slurm.gpu_flag == "none":
        return {}
    if spec.slurm.gpu_flag == "gpus-per-node":
        return {"gpus_per_node": f"{kind}{resources.gpus}"}
    return {"gres": f"gpu:{kind}{resources.gpus}"}


def _extra(flag: str) -> tuple[str, str | bool]:
    name, equals, value = flag.removeprefix("--").partition("=")
    return name, value if equals else True


def run_dir(spec: JobSpec) -> str:
    """Absolute path of the run's folder."""
    return os.path.join(spec.project_dir, spec.output, spec.run_id)


def log_dir(spec: JobSpec) -> str:
    return os.path.join(run_dir(spec), "logs")


def log_path(spec: JobSpec, *, job_id: str) -> str:
    return os.path.join(log_dir(spec), f"slurm-{job_id}.log")


def _heading(*specs: JobSpec) -> list[str]:
    """The script's first lines, before the job's environment. An array has several `specs`, each with its own
    folder."""
    return [
        "# Slurm does not make the log's folder, and a job without it ends without a word. Before sbatch:",
        *(f"#   mkdir -p {shlex.quote(log_dir(spec))}" for spec in specs),
        *module_lines(specs[0]),
        "set -eu",
        *login_lines(specs[0]),
        "export PYTHONUNBUFFERED=1",
    ]


def _exports(env: Sequence[tuple[str, str]]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in sorted(env)]


def _command(spec: JobSpec, wrapped: Wrapping, argv_lines: Sequence[str]) -> str:
    """srun with one task a node: the supervisor itself, which reads the node's rank on its node."""
    srun = [
        "srun",
        f"--nodes={spec.resources.nodes}",
        f"--ntasks={spec.resources.nodes}",
        "--ntasks-per-node=1",
        # Since 22.05 srun ignores sbatch's --cpus-per-task.
        f"--cpus-per-task={spec.resources.cpus}",
        # sbatch --export=NONE leaves SLURM_EXPORT_ENV=NONE behind: without this the tasks would get no PATH.
        "--export=ALL",
        "--kill-on-bad-exit=1",
        # A progress bar ends no lines. Not with --label, which would then label every write.
        "--unbuffered",
    ]
    lines = [shlex.join(srun), *wrapped.srun, *wrapped.task, *argv_lines]
    return "\n".join([*wrapped.before_srun, " \\\n  ".join(lines) + " || ended=$?"])


def _argv_lines(argv: tuple[str, ...]) -> list[str]:
    """Quoted words, with a new line at each option, so that a script can be read and compared line by line."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return [shlex.join(words) for words in lines if words]
