"""A site file moves defaults and nothing else: what is typed wins, and all it says goes through the same checks."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import GOLDEN, ROOT
from plans import make_plan
from programs import slurm
from slurm_verbs import submit
from specs import CHECKOUT
from stubbed import run_with_stubs
from toy_job import seen_by, toy_plan

from k8s.manifest import site as k8s_site
from launcher.restore_spec import read_spec
from planner.choose import choose
from planner.job import JobSpec
from planner.request.resolve import resolve
from planner.request.variables import BY_NAME
from slurm.cluster.site import SITE_KEYS, find_site, with_gpu_type
from slurm.render import log_path, render
from trainer.outcome import ConfigError


def request(folder: Path, text: str, **given: str) -> JobSpec:
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    given = {"SITE": "site.yaml", **given}
    environ = {"USER": "ada"}
    return resolve(given, project_dir=CHECKOUT, environ=environ, site=find_site(given, folder, environ))


def refusal(folder: Path, text: str, **given: str) -> str:
    with pytest.raises(ConfigError) as caught:
        request(folder, text, **given)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_full_site_is_a_full_request(tmp_path: Path) -> None:
    plain = resolve({"GPUS": "2", "RUN": "r"}, project_dir=CHECKOUT, environ={})
    spec = request(tmp_path, (GOLDEN / "full_site.yaml").read_text(), GPUS="2", RUN="r")
    assert spec == plain.but(
        partition="gpu,gpu-long",
        account="vision",
        wckey="vision-2026",
        cluster="fast",
        qos="normal",
        image="/scratch/ada/trainyard.sif",
        time_limit_min=1440,
        gpu_type="A100",
        gpu_flag="gpus-per-node",
        vram_gib=80.0,
        vram_source="GPU_TYPE=A100 of site.yaml",
        cpus=24,
        mem_gib=200,
        output="/scratch/ada/trainyard runs",
        constraint="a100&ib",
        exclude="n[13-15],bad1",
        reservation="vision_week",
        mail_user="ada@example.org",
        mail_type="FAIL,REQUEUE",
        modules=("StdEnv/2023", "cuda/12.4"),
        environment=(
            ("HF_HOME", "/scratch/ada/hf"),
            ("NCCL_IB_HCA", "mlx5_0,mlx5_1"),
            ("NCCL_SOCKET_IFNAME", "^lo,docker0"),
        ),
        binds=("/scratch/ada", "/sets:/data/sets:ro"),
        extra_flags=("--licenses=a:1,b:2", "--exclusive"),
        site="site.yaml: GPU_TYPE, TIME, OUTPUT, RUNTIME, IMAGE, BINDS, ACCOUNT, WCKEY, CLUSTER, PARTITION, QOS, "
        "CONSTRAINT, EXCLUDE, RESERVATION, MAIL_USER, MAIL_TYPE, GPU_FLAG, EXTRA_FLAGS, MODULES, ENVIRONMENT, CPUS, "
        "MEM",
    )
    recorded = json.loads(json.dumps(spec.to_dict()))
    assert read_spec(recorded, project_dir=CHECKOUT) == spec
    assert dict(choose(spec).env)["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"


def test_every_key_of_the_site_is_a_variable_and_the_golden_site_has_them_all() -> None:
    assert {key.upper() for key in SITE_KEYS} <= set(BY_NAME)
    text = (GOLDEN / "full_site.yaml").read_text()
    assert set(re.findall(r"^(\w+):", text, re.MULTILINE)) == {*SITE_KEYS, "gpu_types"}


def test_everything_in_the_site_can_be_typed_over(tmp_path: Path) -> None:
    typed = {
        "PARTITION": "p",
        "ACCOUNT": "none",
        "WCKEY": "none",
        "CLUSTER": "none",
        "QOS": "none",
        "TIME": "5",
        "GPU_TYPE": "l4",
        "GPU_FLAG": "gres",
        "CPUS": "1",
        "MEM": "33",
        "OUTPUT": "o",
        "RUNTIME": "none",
        "IMAGE": "none",
        "BINDS": "none",
        "EXTRA_FLAGS": "none",
        "CONSTRAINT": "none",
        "EXCLUDE": "none",
        "RESERVATION": "none",
        "MAIL_USER": "none",
        "MAIL_TYPE": "none",
        "MODULES": "none",
        "ENVIRONMENT": "HF_HOME=/h,NCCL_IB_HCA=a,NCCL_SOCKET_IFNAME=b",
        "GPUS": "2",
        "RUN": "r",
    }
    spec = request(tmp_path, (GOLDEN / "full_site.yaml").read_text(), **typed)
    bare = resolve(typed, project_dir=CHECKOUT, environ={})
    assert spec.but(site="", vram_source="") == bare.but(site="", vram_source="")


def test_the_environment_is_merged_name_by_name(tmp_path: Path) -> None:
    spec = request(tmp_path, "environment: {A: '1', B: '2'}", ENVIRONMENT="B=3,C=4")
    assert spec.environment == (("A", "1"), ("B", "3"), ("C", "4"))


@pytest.mark.parametrize(
    ("given", "vram", "source"),
    [
        ({}, 24.0, "L4 of site.yaml, the smallest there"),
        ({"GPU_TYPE": "a100"}, 80.0, "GPU_TYPE=a100 of site.yaml"),
        ({"GPU_TYPE": "l4"}, 24.0, "GPU_TYPE=L4 of site.yaml"),
        ({"GPU_TYPE": "h100"}, 80.0, "GPU_TYPE=h100"),
        ({"GPU_TYPE": "a100", "VRAM": "40"}, 40.0, "given"),
    ],
)
def test_what_is_typed_wins_over_the_site_and_the_site_over_our_table(
    given: dict[str, str], vram: float, source: str, tmp_path: Path
) -> None:
    spec = request(tmp_path, "gpu_types: {a100: 80, L4: 24GiB}", **given)
    assert (spec.resources.vram_gib, spec.sources.vram_source, spec.sources.site) == (vram, source, "site.yaml")


SEVERAL = "gpu_types: {h100: 80, a100: 80, l4: 24}"


@pytest.mark.parametrize(
    ("text", "given", "kind", "source"),
    [
        # Any will do.
        (SEVERAL, {}, None, "l4 of site.yaml, the smallest there"),
        (SEVERAL, {"VRAM": "24"}, None, "given"),
        ("gpu_types: {a100: 80}", {"VRAM": "40"}, None, "given"),
        ("partition: gpu", {"VRAM": "200"}, None, "given"),
        # An l4 would not.
        (SEVERAL, {"VRAM": "80"}, "a100", "given: a100 of site.yaml has it"),
        (SEVERAL, {"VRAM": "40", "GPU_TYPE": "H100"}, "h100", "given"),
        (SEVERAL, {"VRAM": "80", "DEVICE": "cpu"}, None, "given"),
    ],
)
def test_vram_asks_slurm_for_the_smallest_type_that_has_it(
    text: str, given: dict[str, str], kind: str | None, source: str, tmp_path: Path
) -> None:
    asked = request(tmp_path, text, **given)
    spec = with_gpu_type(asked, find_site({"SITE": "site.yaml"}, tmp_path, {}))
    assert spec == asked.but(gpu_type=kind, vram_source=source)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"GPU_TYPE": "h100"},
            "GPU_TYPE=h100: not in gpu_types of site.yaml, did you mean a100? known are a100, l4; add it",
        ),
        ({"VRAM": "200"}, "VRAM=200: the largest GPU, a100, has 80 GiB in site.yaml: try VRAM=80, or more of"),
        ({"VRAM": "80", "GPU_TYPE": "l4"}, "VRAM=80: l4 has 24 GiB in site.yaml: try GPU_TYPE=a100"),
    ],
)
def test_a_gpu_that_the_site_has_not_is_refused_on_slurm(given: dict[str, str], said: str, tmp_path: Path) -> None:
    spec = request(tmp_path, "gpu_types: {a100: 80, l4: 24}", **given)
    with pytest.raises(ConfigError, match=re.escape(said)):
        with_gpu_type(spec, find_site({"SITE": "site.yaml"}, tmp_path, {}))


@pytest.mark.slow
def test_plan_render_and_sweep_ask_for_the_type_that_has_the_vram(checkout: Path) -> None:
    (checkout / "slurm" / "site.yaml").write_text(SEVERAL)
    assert "80 GiB a GPU (given: a100 of slurm/site.yaml has it)" in slurm("plan", "--vram=80", cwd=checkout).stdout
    for argv in (["--vram=80"], ["--vram=80", "--grid=LEARNING_RATE=1e-4,2e-4"]):
        assert "#SBATCH --gres=gpu:a100:1\n" in slurm("render", *argv, cwd=checkout).stdout
        done = slurm("render", "--vram=81", *argv[1:], cwd=checkout)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)


def test_the_sites_spelling_of_a_gpu_is_what_slurm_is_asked_for(tmp_path: Path) -> None:
    assert request(tmp_path, "gpu_types: {NVIDIA-A100: 40}", GPU_TYPE="nvidia-a100").resources.gpu_type == "NVIDIA-A100"


def test_an_exact_spelling_of_a_gpu_wins_and_one_that_could_be_two_is_refused(tmp_path: Path) -> None:
    for text in ("gpu_types: {a100: 80, A100: 40}", "gpu_types: {A100: 40, a100: 80}"):
        for kind, size in (("a100", 80.0), ("A100", 40.0)):
            asked = request(tmp_path, text, GPU_TYPE=kind)
            assert (asked.resources.gpu_type, asked.resources.vram_gib) == (kind, size)
    said = "GPU_TYPE=l40s: site.yaml has L40S and L40s: write one of them"
    assert refusal(tmp_path, "gpu_types: {L40S: 48, L40s: 24}", GPU_TYPE="l40s") == said


def test_values_are_read_as_typed_and_not_as_yaml_would_have_them(tmp_path: Path) -> None:
    """YAML's own reading of 12:00:00 is 43200, of 010 is 8, of no is False."""
    spec = request(tmp_path, "time: 12:00:00\naccount: 010\npartition: no")
    assert (spec.resources.time_limit_min, spec.slurm.account, spec.slurm.partition) == (720, "010", "no")


def test_the_run_id_depends_on_the_site(tmp_path: Path) -> None:
    ids = {request(tmp_path, text).run_id for text in ("", "", "account: a", "environment: {A: '1'}")}
    assert len(ids) == 3


def test_an_empty_site_changes_nothing(tmp_path: Path) -> None:
    """As when the shell has emptied slurm/site.yaml for `make site > slurm/site.yaml`."""
    assert request(tmp_path, "# nothing yet\n") == resolve({}, project_dir=CHECKOUT, environ={})


@pytest.mark.parametrize("nothing", ["", "~", "null", "Null", "NULL", "!!null x"])
def test_a_key_whose_value_is_null_says_nothing(nothing: str, tmp_path: Path) -> None:
    keys = [key for key in SITE_KEYS if key not in ("environment", "mem")]
    text = "".join(f"{key}: {nothing}\n" for key in (*keys, "gpu_types"))
    text += f"environment:\n  HF_HOME: {nothing}\n  NCCL_DEBUG: INFO\nmem: 40\n"
    asked = request(tmp_path, text)
    plain = resolve({"MEM": "40", "ENVIRONMENT": "NCCL_DEBUG=INFO"}, project_dir=CHECKOUT, environ={})
    assert asked.but(site="", run_id="") == replace(plain, run_id="")
    assert asked.sources.site == "site.yaml: ENVIRONMENT, MEM"
    assert request(tmp_path, f"environment:\n  HF_HOME: {nothing}\n") == resolve({}, project_dir=CHECKOUT, environ={})


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_a_null_says_nothing_on_kubernetes_either(nothing: str, tmp_path: Path) -> None:
    keys = (*k8s_site.SITE_KEYS, *k8s_site.CLUSTER_KEYS, "gpu_types")
    text = "".join(f"{key}: {nothing}\n" for key in keys if key not in ("tolerations", "node_selector", "volumes"))
    text += f"tolerations:\n- key: gpu\n  value: {nothing}\n  operator: Exists\nnode_selector:\n  a: {nothing}\n"
    text += f"volumes:\n- claim: c\n  mount: /x\n  read_only: {nothing}\n"
    (tmp_path / "site.yaml").write_text(text)
    site = k8s_site.find_site({"SITE": "site.yaml"}, tmp_path, {})
    volume = k8s_site.Volume(claim="c", mount="/x", read_only=True)
    found = k8s_site.Cluster(tolerations=({"key": "gpu", "operator": "Exists"},), volumes=(volume,))
    assert (site.texts, site.gpu_gib, k8s_site.read_cluster(site, {})) == ({}, {}, found)


@pytest.mark.parametrize("none", ["none", "None", "NONE"])
def test_none_takes_back_what_the_site_says_however_it_is_spelled(none: str, tmp_path: Path) -> None:
    text = "account: a\nmodules: [m]\nmail_type: END\nextra_flags: [--nice=1]\n"
    asked = request(tmp_path, text, ACCOUNT=none, MODULES=none, MAIL_TYPE=none, EXTRA_FLAGS=none)
    assert (asked.slurm.account, asked.slurm.modules, asked.slurm.mail_type, asked.slurm.extra_flags) == (
        None,
        (),
        None,
        (),
    )


def test_all_that_is_wrong_with_the_site_is_one_message(tmp_path: Path) -> None:
    said = refusal(tmp_path, "time: never\npartion: x\nqos: '-x'\ngpu_types: {v100: 32}\nmem: [[1]]\n")
    for part in ("TIME=never: takes a time", "unknown 'partion', did you mean partition?", "QOS=-x: takes letters"):
        assert said.count(part) == 1
    assert "gpu_types: v100 has no bfloat16" in said and "mem: takes one value" in said
    assert said.startswith("site.yaml: ") and said.count("site.yaml") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partion: x", "site.yaml: unknown 'partion', did you mean partition? known are gpu_type, time,"),
        ("PARTITION: x", "site.yaml: unknown 'PARTITION', did you mean partition?"),
        ("time: 1h\ntime: 2h", "site.yaml: time was given twice, in line 1 and 2"),
        ("gpu_types: {a100: 40, a100: 80}", "site.yaml: a100 was given twice, in line 1 and 1"),
        ("partition: &a [*a]", "site.yaml: is not YAML: it nests deeper than 64 levels"),
        ("vram: 3", "site.yaml: unknown 'vram'"),
        ("setup: rm -rf /", "site.yaml: unknown 'setup'"),
        ("partition: x; reboot", "site.yaml: PARTITION='x; reboot': takes letters, digits and _.,-"),
        ("partition: ''", "site.yaml: partition is empty: give a value, or remove the line"),
        ("partition: 'null'", "site.yaml: PARTITION=null: write none, or leave PARTITION out"),
        ("modules: ['~']", "site.yaml: MODULES=~: write none, or leave MODULES out"),
        ("modules: [a, null]", "site.yaml: modules: the list holds an empty value: remove it"),
        ("partition: [null]", "site.yaml: partition: the list holds an empty value: remove it"),
        ("partition: [~, gpu]", "site.yaml: partition: the list holds an empty value: remove it"),
        ("partition: [none]", "site.yaml: partition: the list holds none, which stands alone: partition: none takes a"),
        ("modules: [cuda, NONE]", "site.yaml: modules: the list holds none, which stands alone: modules: none takes a"),
        ("environment: [A=1, B]", "site.yaml: environment: item 2 begins with no NAME=: each takes NAME=value"),
        ("environment: [hf_x]", "site.yaml: environment: item 1 begins with no NAME=: each takes NAME=value"),
        ("environment: ['A=1,B=2']", "site.yaml: environment: item 1 holds `,name=`, which reads as the next: reword"),
        ("partion:", "site.yaml: unknown 'partion', did you mean partition?"),
        ("partition: [[x]]", "site.yaml: partition: takes one value, or a list or mapping of values"),
        ("modules: [a, '']", "site.yaml: modules: holds an empty value: remove it"),
        ("modules: ['a;b']", "site.yaml: MODULES='a;b': takes modules with commas between"),
        ("environment: {HF_TOKEN: x}", "site.yaml: ENVIRONMENT: HF_TOKEN holds a secret"),
        ("environment: {A: 'x,B=y'}", "site.yaml: environment: a value holds `,name=`"),
        ("gpu_types: a100", "site.yaml: gpu_types takes lines of `name: GiB of one GPU`"),
        ("gpu_types: {a100: lots}", "site.yaml: gpu_types: a100=lots: takes a number of GiB from 1 to 1024"),
        (
            "gpu_types: {a b: 1, v100: 3, x: y}",
            "site.yaml: gpu_types: 'a b' takes letters, digits and ._-; gpu_types: v100 has no bfloat16, which "
            "training needs: remove it; gpu_types: x=y: takes a number of GiB from 1",
        ),
        ("gpu_types: {v100: 32}", "site.yaml: gpu_types: v100 has no bfloat16"),
        ("gpu_types: {'a b': 32}", "site.yaml: gpu_types: 'a b' takes letters, digits and ._-"),
        ("- a", "site.yaml: takes lines of `key: value`, keys are gpu_type,"),
        ("a: b: c", "site.yaml: is not YAML: line 1, column 5: mapping values are not allowed here"),
        ("a: \x00", "site.yaml: is not YAML: "),
        ("!!python/object/apply:os.system [touch ran]", "site.yaml: takes lines of `key: value`"),
    ],
)
def test_a_mistake_in_the_site_is_one_line_that_names_the_file(text: str, said: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).startswith(said)
    assert {path.name for path in tmp_path.iterdir()} == {"site.yaml"}


def test_a_site_that_was_named_must_be_there_and_none_is_none(tmp_path: Path) -> None:
    assert refusal(tmp_path, "", SITE="/nowhere/s.yaml") == (
        "SITE=/nowhere/s.yaml: No such file or directory: make site drafts one, SITE=none does without"
    )
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "site.yaml").write_text("account: a")
    assert find_site({}, tmp_path, {}).texts == {"ACCOUNT": "a"}
    assert find_site({"SITE": "none"}, tmp_path, {}).texts == {}


def test_a_user_who_is_not_known_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("output: /scratch/{user}")
    with pytest.raises(ConfigError, match=r"^s.yaml: output holds \{user\}, and USER is no name: set it$"):
        find_site({"SITE": "s.yaml"}, tmp_path, {"USER": "$(x)"})


def test_the_example_is_a_site_file_once_uncommented(tmp_path: Path) -> None:
    text = (ROOT / "slurm" / "site.example.yaml").read_text()
    assert request(tmp_path, text) == resolve({}, project_dir=CHECKOUT, environ={})
    lines = re.sub(r"^# ((?:  )?[a-z_A-Z0-9]+:( |$))", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "all.yaml").write_text(lines)
    site = find_site({"SITE": "all.yaml"}, tmp_path, {"USER": "ada"})
    assert {*site.texts, "GPU_TYPES"} == {key.upper() for key in (*SITE_KEYS, "gpu_types")}
    assert site.gpu_gib == {"a100": 80.0, "l40s": 48.0}


def test_plan_says_what_the_site_decided(checkout: Path) -> None:
    (checkout / "slurm" / "site.yaml").write_text("partition: gpu\ngpu_types: {l40s: 48}\n")
    done = slurm("plan", "--gpus=2", cwd=checkout)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("memory 48 GiB a GPU (l40s of slurm/site.yaml), ")
    assert lines[2] == "site   slurm/site.yaml: PARTITION"
    assert "#SBATCH --partition=gpu\n" in slurm("render", "--gpus=2", cwd=checkout).stdout


def test_modules_are_loaded_where_the_batch_shell_has_no_module_function(tmp_path: Path) -> None:
    """From where the site keeps it; its code reads unset variables, which `set -u` would end."""
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text(
        'module() { shift; export LOADED="$*$NOT_SET" PYTHONHOME=/site; }\n', encoding="utf-8"
    )
    plan = make_plan(modules=("StdEnv/2023", "cuda/12.4"))
    _, environ = run_with_stubs(plan, tmp_path, MODULESHOME=str(tmp_path))
    assert (environ["LOADED"], environ.get("PYTHONHOME")) == ("StdEnv/2023 cuda/12.4", None)


TYPED = ("PARTITION", "CONSTRAINT", "EXCLUDE", "RESERVATION", "MAIL_USER", "MAIL_TYPE")
TEXTS = st.text("$()`'\"\\;&|<>*?!~#{}[]= \n\tax,@.", min_size=1, max_size=12) | st.text(min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(TYPED), text=TEXTS, value=TEXTS)
def test_what_a_site_says_is_refused_or_arrives_literally(tmp_path: Path, name: str, text: str, value: str) -> None:
    """One #SBATCH line as sbatch will read it, and one variable of the job; nothing in them is run."""
    try:
        spec = resolve({name: text, "ENVIRONMENT": f"VALUE={value}"}, project_dir=CHECKOUT, environ={})
    except ConfigError as refused:
        assert str(refused).isprintable()
        return
    said = spec.value(name.lower())
    plan = make_plan(**{name.lower(): said}, env=spec.environment)
    _, environ = run_with_stubs(plan, tmp_path)
    assert {**environ, **dict(spec.environment)} == environ
    flag = f"#SBATCH --{name.lower().replace('_', '-')}="
    lines = [line for line in render(plan).splitlines() if line.startswith(flag)]
    assert [shlex.split(line.removeprefix(flag)) for line in lines] == ([[said]] if said else [])


@pytest.mark.cluster
def test_a_site_reaches_a_real_job(cluster: Cluster, tmp_path: Path, records: Path) -> None:
    plan = toy_plan(
        tmp_path / "p",
        records,
        gpus=2,
        gpu_type="a100",
        gpu_flag="gpus-per-node",
        partition="high,low",
        exclude="n1",
        mail_user="root",
        mail_type="FAIL,REQUEUE",
        env=(("NCCL_SOCKET_IFNAME", "^lo,docker0"),),
    )
    ended = cluster.wait(submit(plan, cluster.environ).job_id)
    assert (ended["JobState"], ended["NodeList"]) == ("COMPLETED", "n2")
    assert (ended["MailUser"], ended["MailType"]) == ("root", "FAIL,REQUEUE")
    (task,) = seen_by(tmp_path / "p")
    environ = task["environ"]
    seen = (environ["CUDA_VISIBLE_DEVICES"], environ["NCCL_SOCKET_IFNAME"])
    assert seen == ("0,1", "^lo,docker0")


@pytest.mark.cluster
def test_modules_that_are_not_there_end_the_job_as_a_wrong_configuration(
    cluster: Cluster, tmp_path: Path, records: Path
) -> None:
    plan = toy_plan(tmp_path / "p", records, gpus=0, modules=("nosuch/1.0",))
    job_id = submit(plan, cluster.environ).job_id
    ended = cluster.wait(job_id)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "78:0")
    last = Path(log_path(plan.spec, job_id=job_id)).read_text().splitlines()[-1]
    assert last == ("trainyard: module load nosuch/1.0 failed: see module avail, and MODULES or the site file")
