"""The sbatch script: recorded line by line, accepted by shellcheck, deaf to whatever the words in it say."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import GOLDEN, ROOT
from plans import ENV, make_plan
from stubbed import run_with_stubs

from planner.plan import Plan
from planner.request.resolve import resolve
from planner.request.site import read_site
from planner.request.variables import parse_given
from slurm.cluster.site import SITE_KEYS
from slurm.render import job_name, render, render_array
from slurm.script.runtime import mounts
from trainer.launch import shipped
from trainer.outcome import ConfigError

# What one full site file, beside the scripts, turns into. The rest of a plan is not its business.
FROM_SITE = (
    *("account", "constraint", "cpus", "environment", "exclude", "extra_flags", "gpu_flag", "gpu_type", "mail_type"),
    *("mail_user", "mem_gib", "modules", "output", "partition", "qos", "reservation", "time_limit_min", "wckey"),
    "cluster",
)


def site_plan() -> Plan:
    site = read_site(GOLDEN / "full_site.yaml", source="site.yaml", keys=SITE_KEYS, user="ada")
    spec = resolve({"GPUS": "2"}, project_dir=Path("/"), environ={}, site=site)
    request = {name: spec.value(name) for name in FROM_SITE}
    return make_plan(gpus=2, env=(*ENV, *spec.environment), **request)


PLANS: dict[str, Plan] = {
    "one_gpu": make_plan(),
    "two_nodes": make_plan(
        gpus=4, nodes=2, gpu_type="a100", account="vision", partition="gpu", qos="normal", cpus=16, mem_gib=64
    ),
    "full_site": site_plan(),
    "no_gpu": make_plan(gpus=0, device="cpu", time_limit_min=30, env=(("ACCELERATE_USE_CPU", "true"),)),
    "apptainer": make_plan(
        gpus=2,
        nodes=2,
        runtime="apptainer",
        image="registry.example.org/team/trainyard:0.1.0",
        model="/models/gemma",
        model_is_folder=True,
        data='/data/it\'s "one"; two.jsonl',
        binds=("/pictures:/data/pictures:ro", "/scratch"),
        config_file="mine.yaml",
        environment=(("HF_HOME", "/scratch/hf"),),
        env=(*ENV, ("HF_HOME", "/scratch/hf")),
    ),
    "pyxis": make_plan(
        runtime="pyxis",
        image="registry.example.org/team/trainyard:0.1.0",
        data="sets/one.jsonl",
        binds=("/pictures:ro",),
    ),
    "awkward_paths": make_plan(
        project_dir='/home/ada/it\'s "mine"',
        data="$(touch x) `y`; z",
        output="/scratch/with space/#1",
        env=(("B", "two words"), ("A", "it's $HOME")),
    ),
}


def sweep_plan(index: int, config: str = "single_gpu", **request: Any) -> Plan:
    plan = make_plan(run_id=f"sweep-{index}", sweep="sweep", **request)
    own = {"run_id": plan.spec.run_id, "learning_rate": f"{index + 1}e-4", "seed": "0"}
    launch = replace(plan.launch, configuration=shipped(config), settings={**plan.launch.settings, **own})
    env = (*ENV, ("TRAINYARD_PEAK_GIB", f"{14 + index // 2}"), ("WANDB_RUN_GROUP", "sweep"))
    return replace(plan, launch=launch, env=env)


SCRIPTS: dict[str, str] = {
    **{name: render(plan) for name, plan in PLANS.items()},
    "sweep": render_array("sweep", {i: sweep_plan(i) for i in range(3)}, parallel=2),
    "sweep_of_what_is_left": render_array(
        "sweep",
        {i: sweep_plan(i, config, data="it's $HOME") for i, config in ((1, "single_gpu"), (4, "multi_gpu"))},
        parallel=4,
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_recorded_one(name: str) -> None:
    recorded = GOLDEN / f"{name}.sbatch"
    if os.environ.get("TRAINYARD_REWRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        recorded.write_text(SCRIPTS[name], encoding="utf-8")
    assert SCRIPTS[name].split("\n") == recorded.read_text(encoding="utf-8").split("\n")


def test_no_recorded_script_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.sbatch")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck, "shellcheck comes with the dev extra"
    script = tmp_path / "job.sbatch"
    script.write_text(SCRIPTS[name], encoding="utf-8")
    # SC2016 says that $ is not expanded in single quotes, which is the point of them.
    awkward = name in ("awkward_paths", "sweep_of_what_is_left")
    command = [shellcheck, *(["--exclude=SC2016"] if awkward else []), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_environment_does_not_change_a_byte() -> None:
    """submitit reads SUBMITIT_PREEMPT_SIGNAL when it is imported, and hash seeds differ between processes."""
    code = "from plans import make_plan as m; from slurm.render import render; print(render(m(gpus=2)), end='')"
    path = os.pathsep.join([str(ROOT / "tests" / "helpers"), str(ROOT)])
    others = [{"HOME": "/x", "PYTHONHASHSEED": "1"}, {"SUBMITIT_PREEMPT_SIGNAL": "USR1", "TZ": "Asia/Tokyo"}]
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": path, **env}, capture_output=True, check=True, cwd=cwd
        ).stdout.decode()
        for env, cwd in zip(others, ("/", None), strict=True)
    }
    assert texts == {render(make_plan(gpus=2))}


def test_what_was_not_asked_for_is_not_in_the_script() -> None:
    text = render(make_plan(gpus=0, device="cpu"))
    absent = (
        "--account",
        "--partition",
        "--qos",
        "--gres",
        "--gpus",
        "--constraint",
        "--exclude",
        "--reservation",
        "--mail",
        "module",
        "--wckey",
        "None",
        "MASTER_",
    )
    assert [word for word in absent if word in text] == []


def test_the_job_is_called_by_its_run_and_name() -> None:
    assert job_name(make_plan(name="gemma", run_id="gemma-1").spec) == "gemma-1"
    assert job_name(make_plan(name="gemma", run_id="mine").spec) == "gemma-mine"


def test_several_nodes_meet_on_the_first_at_a_port_from_the_job_id(tmp_path: Path) -> None:
    argv, environ = run_with_stubs(make_plan(gpus=2, nodes=2), tmp_path)
    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("first", str(10_000 + 123456789 % 20_000))
    assert argv[: argv.index("--unbuffered") + 1] == [
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        "--export=ALL",
        "--kill-on-bad-exit=1",
        "--unbuffered",
    ]


# What a person keeps in login files; the last two stand in nobody's list of known names.
OF_LOGIN_FILES = {
    "SLURM_TIME_FORMAT": "%d/%m/%Y", "SLURM_CLUSTERS": "other", "SLURM_TIMELIMIT": "1", "SLURM_LABELIO": "1",
    "SLURM_MEM_PER_CPU": "7", "SLURM_MEM_BIND": "quiet", "SLURM_TASK_PROLOG": "/no", "SLURMD_DEBUG": "9",
    "SQUEUE_PARTITION": "high", "SQUEUE_FORMAT": "%a", "SRUN_EXPORT_ENV": "NONE", "SCONTROL_ALL": "1",
    "PYTHONPATH": "/no", "PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1", "SLURM_LATER": "1", "PYTHONLATER": "1",
}  # fmt: skip
OF_SLURMD = {
    "SLURM_JOB_NUM_NODES": "1", "SLURM_CONF": "/x.conf", "SLURM_CLUSTER_NAME": "c", "SLURM_SUBMIT_DIR": "/x",
    "SLURM_TASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "4", "SLURM_GPUS_ON_NODE": "1", "SLURM_MEM_PER_NODE": "32768",
    "SLURM_RESTART_COUNT": "2", "SLURM_SPANK_X": "1", "SLURM_STEPMGR": "n1", "SLURM_SHARDS_ON_NODE": "2",
}  # fmt: skip


def test_what_login_files_say_to_slurm_and_python_does_not_reach_the_tasks(tmp_path: Path) -> None:
    # Of export -f.
    ours = ("squeue", "scontrol", "srun", "date", "mktemp", "read", "rm", "sleep", "head")
    functions = {f"BASH_FUNC_{name}%%": "() { echo 1; }" for name in ours}
    given = {**OF_LOGIN_FILES, **OF_SLURMD, **functions, "TMPDIR": "/no/such", "KEPT": "1", "POSIXLY_CORRECT": "1"}
    _, environ = run_with_stubs(make_plan(nodes=2), tmp_path, **given)
    assert environ["MASTER_ADDR"] == "first" and Path(environ["TRAINYARD_STATUS_FILE"]).is_absolute()
    assert {name: environ.get(name) for name in OF_SLURMD} == OF_SLURMD
    assert [name for name in (*OF_LOGIN_FILES, "TMPDIR") if name in environ] == []
    assert (environ["KEPT"], environ["PYTHONUNBUFFERED"], environ["TRAINYARD_DEADLINE"]) == ("1", "1", "4000000000")


def test_what_sbatch_was_asked_for_reaches_srun(tmp_path: Path) -> None:
    """sbatch hands these on as variables; a job's own win over those of login files."""
    given = {"SLURM_HINT": "nomultithread", "SLURM_MEM_BIND": "local", "SLURM_GPUS_PER_NODE": "1"}
    plan = make_plan(extra_flags=("--hint=nomultithread", "--mem-bind=local"), gpu_flag="gpus-per-node")
    _, environ = run_with_stubs(plan, tmp_path, **given, SLURM_CPU_BIND="none")
    assert {name: environ.get(name) for name in (*given, "SLURM_CPU_BIND")} == {**given, "SLURM_CPU_BIND": None}


@pytest.mark.parametrize(
    ("gpu_flag", "asked"),
    [
        ("gres", ["--gres=gpu:1,nvme:1"]),
        ("gpus-per-node", ["--gpus-per-node=1", "--gres=nvme:1"]),
        ("none", ["--exclusive", "--gres=nvme:1"]),
    ],
)
def test_other_resources_of_a_node_come_beside_the_gpus(gpu_flag: str, asked: list[str]) -> None:
    text = render(make_plan(extra_flags=("--gres=nvme:1",), gpu_flag=gpu_flag))
    flags = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert [flag for flag in flags if flag.startswith(("--exclusive", "--g"))] == asked
    assert "SLURM_GRES" not in text


@pytest.mark.parametrize(
    ("said", "known"), [("4100000000", "4100000000"), ("1000000000", ""), ("N/A", ""), ("", "4000000000")]
)
def test_the_deadline_is_what_slurm_gives_the_job_and_one_that_is_past_is_not_known(
    said: str, known: str, tmp_path: Path
) -> None:
    _, environ = run_with_stubs(make_plan(), tmp_path, SLURM_JOB_END_TIME=said, TZ="Asia/Tokyo", LC_ALL="de_DE")
    assert environ["TRAINYARD_DEADLINE"] == known


WHAT_IT_ASKS = "squeue --noheader --jobs=7 --states=all --Format=State:|,Reason:|,PreemptTime:|,EndTime:|"
REQUEUE = "scontrol requeue 7"
RUNS = "RUNNING|None|N/A|2026-11-29T16:00:00|"


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([(RUNS, 0), ("", 0)], [WHAT_IT_ASKS, REQUEUE]),
        ([("COMPLETING|TimeLimit|N/A|2026-11-29T15:30:50|", 0), ("", 0)], [WHAT_IT_ASKS, REQUEUE]),
        # Preempted, and not put back by Slurm itself (PreemptMode=CANCEL).
        ([("COMPLETING|None|2026-11-29T15:30:50|2026-11-29T15:30:50|", 0), ("", 0)], [WHAT_IT_ASKS, REQUEUE]),
        # What Slurm says is final: cancelled, also in the grace of a preemption; put back by Slurm itself; failed.
        ([("COMPLETING|None|N/A|2026-11-29T15:30:50|", 0)], [WHAT_IT_ASKS]),
        ([("COMPLETING|None|2026-11-29T15:30:50|2026-11-29T15:30:52|", 0)], [WHAT_IT_ASKS]),
        ([("COMPLETING|None|2026-11-29T15:30:50|N/A|", 0)], [WHAT_IT_ASKS]),
        ([("COMPLETING|None|N/A|N/A|", 0)], [WHAT_IT_ASKS]),
        ([("CANCELLED|None|N/A|2026-11-29T15:30:50|", 0)], [WHAT_IT_ASKS]),
        # An empty answer says nothing, least of all that somebody else requeues.
        ([("", 0), (RUNS, 0), ("", 0)], [*[WHAT_IT_ASKS] * 2, REQUEUE]),
        # Away for a moment, at either question.
        ([("", 1), ("", 1), (RUNS, 0), ("", 0)], [*[WHAT_IT_ASKS] * 3, REQUEUE]),
        ([(RUNS, 0), ("", 1), (RUNS, 0), ("", 0)], [WHAT_IT_ASKS, REQUEUE] * 2),
        # It was requeued though scontrol was not told.
        ([(RUNS, 0), ("", 1), ("PENDING|BeginTime|N/A|N/A|", 0)], [WHAT_IT_ASKS, REQUEUE, WHAT_IT_ASKS]),
        # Away for good.
        ([("", 1)] * 4, [WHAT_IT_ASKS] * 4),
        ([(RUNS, 0), ("", 1)] * 4, [WHAT_IT_ASKS, REQUEUE] * 4),
    ],
)
def test_a_requeue_is_asked_for_until_slurm_has_answered(
    answers: list[tuple[str, int]], asked: list[str], tmp_path: Path
) -> None:
    """The batch shell ends with the outcome's code, whatever Slurm says. Slurm's programs are stand-ins here."""
    for index, (text, code) in enumerate(answers):
        (tmp_path / f"answer-{index}").write_text(f"echo '{text}'; exit {code}\n")
    answer = (
        f'#!/bin/sh\ncd "{tmp_path}"; case "$*" in *%e) exit ;; esac\n'
        'count=$(cat asked 2>/dev/null | wc -l); echo "${0##*/} $*" >>asked; . ./answer-"$count"\n'
    )
    programs = {"squeue": answer, "scontrol": answer, "sleep": f'#!/bin/sh\necho "$1" >>"{tmp_path}/slept"\n'}
    programs["srun"] = '#!/bin/sh\necho 75 >"$TRAINYARD_STATUS_FILE"\n'
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sbatch").write_text(render(make_plan(output="my runs")), encoding="utf-8")
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "job.sbatch"], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, (tmp_path / "asked").read_text().splitlines()) == (75, asked)
    gave_up = len(asked) >= 4 and answers[-1] == ("", 1)
    why = "scontrol does not requeue the job" if REQUEUE in asked else "squeue does not answer"
    said = f"trainyard: {why}: make resume RUN=gemma-0123abcd 'OUTPUT=my runs'\n"
    assert done.stderr == (said if gave_up else "")


@pytest.mark.parametrize(
    ("code", "asked"), [(0, ["update jobid=7 requeue=0"]), (78, ["update jobid=7 requeue=0"]), (1, [])]
)
def test_slurm_itself_does_not_requeue_what_has_nothing_left_to_do(code: int, asked: list[str], tmp_path: Path) -> None:
    """Also where the controller does not answer: the code stays the outcome's."""
    programs = {"squeue": "", "scontrol": f'echo "$*" >>"{tmp_path}/asked"; exit 1'}
    programs["srun"] = f'echo {code} >"$TRAINYARD_STATUS_FILE"'
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sbatch").write_text(render(make_plan()), encoding="utf-8")
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "job.sbatch"], env=environ, cwd=tmp_path, capture_output=True, check=False)
    said = (tmp_path / "asked").read_text().splitlines() if asked else []
    assert (done.returncode, said) == (code, asked)


PATHS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20) | st.text(
    "$()`'\"\\;&|<>*?!~#{}[] \n\tax", min_size=1, max_size=20
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=PATHS, output=PATHS, value=PATHS)
def test_paths_are_refused_or_arrive_literally(tmp_path: Path, data: str, output: str, value: str) -> None:
    """Through the request's own check, then through bash: nothing in them runs, nothing is lost."""
    try:
        parsed = parse_given({"DATA": data, "OUTPUT": output, "MODEL": value})
    except ConfigError:
        return
    assert [parsed.values[name] for name in ("MODEL", "DATA", "OUTPUT")] == [value, data, output]
    plan = make_plan(data=data, output=output, model=value, env=(("VALUE", value),))
    argv, environ = run_with_stubs(plan, tmp_path)
    task = argv[argv.index("--unbuffered") + 1 :]
    assert task == ["/home/ada/trainyard/.venv/cuda/bin/python", "-m", "trainer.supervise", "--", *plan.launch.words()]
    assert environ["VALUE"] == value


GOOD = {
    "NAME": "n", "RUN": "r-1", "DATA": "/d/x", "OUTPUT": "runs", "PARTITION": "gpu", "ACCOUNT": "acc",
    "EXCLUDE": "n1", "CONSTRAINT": "a100", "MAIL_USER": "ada", "EXTRA_FLAGS": "--comment=x --exclusive",
    "BINDS": "/x:/y", "IMAGE": "team/a:1", "ENVIRONMENT": "A=1", "TIME": "5",
}  # fmt: skip
POISON = st.text("$()`'\"\\;&|<>*?!~#{}[] \n\t=,-:%ax", max_size=6) | st.sampled_from(
    ["$(touch ran)", "`touch ran`", "'; touch ran; '", '"; touch ran; "', "\ntouch ran", "=False", " --wrap=x"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runtime=st.sampled_from(["none", "apptainer"]),
    poisoned=st.dictionaries(st.sampled_from(sorted(GOOD)), st.tuples(POISON, POISON), max_size=3),
)
def test_a_whole_request_is_refused_in_one_line_or_said_literally(
    tmp_path: Path, runtime: str, poisoned: dict[str, tuple[str, str]]
) -> None:
    texts = {**GOOD, **{name: GOOD[name].join(around) for name, around in poisoned.items()}}
    try:
        spec = resolve({**texts, "RUNTIME": runtime}, project_dir=tmp_path / "it's $(here)", environ={})
        plan = make_plan(**spec.values(), env=spec.environment)
        text = render(plan)
    except ConfigError as refused:
        assert str(refused).isprintable()
        return
    argv, environ = run_with_stubs(plan, tmp_path)
    assert argv[argv.index("trainer.supervise") + 2 :] == list(plan.launch.words())
    assert {**environ, **dict(spec.environment)} == environ
    header = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    flags = [shlex.split(line.removeprefix("#SBATCH ")) for line in header]
    assert all(len(words) == 1 for words in flags)
    assert [[flag] for flag in spec.slurm.extra_flags if [flag] not in flags] == []
    if runtime == "apptainer":
        given = [next(csv.reader([word], strict=True)) for word in argv if word.startswith(("type=bind", '"type='))]
        expected = [
            ["type=bind", f"source={m.source}", f"destination={m.target}", *(["ro"] if m.read_only else [])]
            for m in mounts(spec)
        ]
        assert given[:-1] == expected
