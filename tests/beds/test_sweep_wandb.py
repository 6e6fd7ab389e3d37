"""Sweeps whose trials W&B chooses. The W&B service is a stand-in: a local server that answers what wandb's own agent
would ask and what the real client asks; the trials it gives are written down here."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from cluster import Cluster
from here import sweep_of
from paths import ROOT
from plans import ENV, make_plan
from programs import local, until
from slurm_verbs import submit_sweep
from toy_project import make_toy_project, read_losses, toy_argv, toy_losses
from wandb_server import KEY, Handler

from launcher.grid import Sweep
from launcher.trials import begin, check_config, check_key
from planner.choose import choose
from trainer.log import bare
from trainer.outcome import SWEEP_ENV, ConfigError
from trainer.sweep.trial import Trial, read_trial, with_values
from trainer.sweep.wandb_service import ServiceError, create_sweep, find_sweep

SWEEP_PATH = "ada/trainyard/abc123"
VALUES = {
    "learning_rate": 0.002,
    "lora_r": 32,
    "lora_alpha": 64,
    "gradient_accumulation_steps": 2,
    "weight_decay": 0.05,
}


class SweepService:
    """In this process, so that a test can say what the sweep does next."""

    def __init__(self) -> None:
        self.trials = [{**VALUES, "lora_alpha": alpha} for alpha in (64, 128, 256)]
        self.config, self.state = "", "PENDING"
        self.agents: list[str] = []
        self.made_in: tuple[str | None, str] | None = None
        self.looked_in: tuple[str | None, str] | None = None
        self.told: list[dict[str, Any]] = []
        self.stop: set[str] = set()
        service = self

        class Answering(Handler):
            seen: ClassVar[dict[str, Any]] = {"asked": [], "history": [], "summary": {}, "runs": [], "files": {}}

            def data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
                return service.data(query, given) or super().data(query, given)

        self.handler = Answering
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.address = Answering.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        project = {"name": "trainyard", "entity": {"name": "ada"}}
        if "upsertSweep(" in query:
            self.config = variables["config"]
            self.made_in = (variables["entityName"], variables["projectName"])
            return {"upsertSweep": {"sweep": {"name": "abc123", "project": project}, "configValidationWarnings": []}}
        if "sweep(sweepName" in query:
            self.looked_in = (variables["entity"], variables["project"])
            found = {"name": "abc123", "state": self.state, "config": self.config}
            return {"project": {**project, "sweep": found if variables["sweep"] == "abc123" else None}}
        if "createAgent(" in query:
            self.agents.append(f"agent-{len(self.agents)}")
            return {"createAgent": {"agent": {"id": self.agents[-1]}}}
        if "agentHeartbeat(" in query:
            commands = json.dumps(self.commands(variables))
            return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": commands}}
        return None

    def commands(self, variables: dict[str, Any]) -> list[dict[str, Any]]:
        running = json.loads(variables["runState"])
        self.told.append(running)
        if running:
            return [{"type": "stop", "run_id": run} for run in running if run in self.stop]
        if not self.trials:
            return [{"type": "exit"}]
        number = len([states for states in self.told if not states])
        return [
            {
                "type": "run",
                "run_id": f"trial{number}",
                "args": {k: {"value": v} for k, v in self.trials.pop(0).items()},
            }
        ]


@pytest.fixture
def service() -> Iterator[SweepService]:
    running = SweepService()
    yield running
    running.server.shutdown()
    running.server.server_close()


def environ(service: SweepService) -> dict[str, str]:
    return {"WANDB_BASE_URL": service.address, "WANDB_API_KEY": KEY}


def planned(**given: str) -> Sweep:
    return sweep_of({"VRAM": "24", **given})


def test_the_shipped_sweep_is_planned_for_its_largest_rank_and_fits_every_trial() -> None:
    sweep = planned(RUN="s", TRIALS="3", EFFECTIVE_BATCH="8")
    assert [plan.spec.run_id for plan in sweep.plans] == ["s-0", "s-1", "s-2"]
    chosen, spec = sweep.plans[0].chosen, sweep.plans[0].spec
    # The largest accumulation, 8, times one sample at once, is the batch that was asked for.
    assert (spec.training.lora_r, chosen.micro_batch_size, chosen.gradient_accumulation_steps) == (128, 1, 1)
    assert sweep.config and sweep.config["metric"] == {"name": "eval/action_accuracy", "goal": "maximize"}
    assert planned(VRAM="80", EFFECTIVE_BATCH="32").plans[0].chosen.micro_batch_size == 4
    assert planned(GPUS="2").plans[0].effective_batch_size == 2  # one sample a GPU: 4, 8 or 16 a step


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"EFFECTIVE_BATCH": "64"}, "EFFECTIVE_BATCH= makes 8 samples at once for each GPU, of which 1 fit: try "),
        ({"EFFECTIVE_BATCH": "12"}, "EFFECTIVE_BATCH=12: is of the largest accumulation, 8 on 1 processes: try 8"),
        ({"LORA": "low"}, "LORA is given, and wandb_sweep.yaml chooses lora_r: say it once"),
        ({"SWEEP": "no such.yaml"}, "SWEEP='no such.yaml': no such file, and no id of a sweep"),
        ({"SWEEP": "ada/trainyard/abc123"}, "W&B is asked with WANDB_API_KEY=: put it into .env"),
        ({"VRAM": "6"}, "google/gemma-3-4b-it needs "),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_line(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**given)
    assert str(caught.value).startswith(said) and str(caught.value).isprintable()


def test_a_placeholder_is_no_key_for_a_sweep() -> None:
    with pytest.raises(ConfigError) as caught:
        check_key(planned(), {"WANDB_API_KEY": "your_key_here"})
    assert str(caught.value) == (
        "a W&B sweep needs WANDB_API_KEY= in .env, where its jobs read it; GRID=... needs none "
        "(WANDB_API_KEY holds a placeholder, which counts as not given)"
    )


def test_a_null_in_a_sweep_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    shipped = (ROOT / "wandb_sweep.yaml").read_text()
    file.write_text(shipped.replace("\nparameters:\n", "\ndescription:\nparameters:\n  lora_dropout: ~\n"))
    assert file.read_text() != shipped
    assert planned(SWEEP=str(file), RUN="s").config == planned(RUN="s").config


def test_a_sweep_file_that_holds_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("method: &a [*a]\n")
    with pytest.raises(ConfigError, match=r"it nests deeper than 64 levels$"):
        planned(SWEEP=str(tmp_path / "sweep.yaml"))


GOOD = yaml.safe_load((ROOT / "wandb_sweep.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": {"lora_rank": {"values": [1]}}}, "s: 'lora_rank' is not for sweeps, did you mean lora_r?"),
        ({"parameters": {"max_length": {"values": [512]}}}, "s: 'max_length' is not for sweeps"),
        ({"parameters": {"lr": {"values": [1]}}}, "s: 'lr' is not for sweeps, did you mean learning_rate?"),
        ({"parameters": {"lora_r": {"values": [0]}}}, "s: lora_r"),
        ({"parameters": {"lora_r": {"min": 8, "max": 64}}}, "s: lora_r takes `values: [...]`, of whole numbers"),
        ({"parameters": {"learning_rate": 3}}, "s: learning_rate takes `values: [...]`, or min and max"),
        ({"parameters": {"learning_rate": {"min": 1e-5}}}, "s: learning_rate takes `values: [...]`, or min and max"),
        (
            {"parameters": {"learning_rate": {"min": 1e-3, "max": 1e-5}}},
            "s: learning_rate: min 0.001 is above max 1e-05",
        ),
        (
            {"method": "grid", "parameters": {"learning_rate": {"min": 1e-5, "max": 1e-3}}},
            "s: learning_rate: a grid has no end between min 1e-05 and max 0.001; list them under `values:`",
        ),
        ({"parameters": {"learning_rate": {"values": []}}}, "s: learning_rate takes `values: [...]`, or min and max"),
        ({"parameters": {"learning_rate": {"min": "low", "max": 1}}}, "s: learning_rate=low: takes a number"),
        ({"parameters": {}}, "s: parameters is missing, or not as in wandb_sweep.yaml"),
        ({"metric": {}}, "s: metric is missing, or not as in wandb_sweep.yaml"),
        ({"metric": {"name": [1]}}, "s: metric takes a name"),
        ({"metric": {"name": "loss", "goal": "less"}}, "s: goal of metric takes minimize or maximize"),
        ({"method": "bayse"}, "s: method takes bayes or grid or random, got 'bayse'"),
        (
            {"method": "x", "parameters": {"foo": 1, "bar": 2, "learning_rate": {"min": 1}}},
            "s: method takes bayes or grid or random, got 'x'; learning_rate takes `values: [...]`, or min and max; "
            "'foo' is not for sweeps; 'bar' is not for sweeps: they take ",
        ),
        ({"metric": None}, "s: metric is missing, or not as in wandb_sweep.yaml"),
        ({"method": ["bayes"]}, "s: method is missing, or not as in wandb_sweep.yaml"),
        (
            {"method": None, "metric": {"name": "loss", "goal": "less"}},
            "s: method is missing, or not as in wandb_sweep.yaml; goal of metric takes minimize or maximize",
        ),
    ],
)
def test_a_bad_sweep_file_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({**GOOD, **change}, "s")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "method: bayse\nmetric: {name: !!binary loss}\nparameters:\n  lora_r: {values: [8, ]}\n"
            "  lora_r: {values: [0]}\n  lora_rank: {values: [8]}\n  learning_rate: {values: [1e-4, ~]}\n",
            "metric: line 2 has a tag, '!!binary': write the value alone; lora_r was given twice, in line 4 and 5; "
            "parameters: the list holds an empty value: remove it; "
            "method takes bayes or grid or random, got 'bayse'; 'lora_rank' is not for sweeps, did you mean lora_r? "
            "they take ",
        ),
        # A part of which nothing can be read is not called missing; what is not there is.
        (
            "metric: {name: loss}\nparameters: {lora_r: {values: [~]}}\n",
            "parameters: the list holds an empty value: remove it; method is missing, or not as in wandb_sweep.yaml",
        ),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_a_sweep_file_is_one_message(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        planned(SWEEP=str(tmp_path / "s.yaml"))
    assert str(caught.value).startswith(f"{tmp_path}/s.yaml: {said}")


def test_a_trial_sets_what_was_planned_for_and_nothing_else() -> None:
    plan = planned(RUN="s").plans[0]

    def command(**values: Any) -> list[str]:
        return list(with_values(plan.launch, Trial(run_id="t", agent="a", values=values)).words())

    words = command(**VALUES)
    found = dict(itertools.pairwise(words))
    assert {name: float(found[f"--{name}"]) for name in VALUES} == VALUES
    assert found["--micro_batch_size"] == "1"
    with pytest.raises(ConfigError, match="trial t sets lora_r 256, memory was planned for 128"):
        command(lora_r=256)
    # A rank alone keeps alpha at twice itself, as it was planned; one that was said otherwise stays.
    found = dict(itertools.pairwise(command(lora_r=8)))
    assert (found["--lora_r"], found["--lora_alpha"]) == ("8", "16")
    assert dict(itertools.pairwise(command(lora_r=8, lora_alpha=9)))["--lora_alpha"] == "9"
    with pytest.raises(ConfigError, match="trial t sets max_length, which is not for sweeps"):
        command(max_length=4096)
    with pytest.raises(ConfigError, match="trial t: learning_rate"):
        command(learning_rate="; touch x")


def test_only_a_sweep_from_a_file_is_made_at_the_service_when_it_begins(service: SweepService) -> None:
    grid = sweep_of({"VRAM": "24", "GRID": "SEED=1,2", "RUN": "g"})
    assert begin(grid, {}, choose) is grid
    file = planned(RUN="s", TRIALS="2")
    begun = begin(file, environ(service), choose)
    assert [(plan.spec.run_id, plan.spec.wandb_sweep) for plan in begun.plans] == [
        ("s-0", SWEEP_PATH), ("s-1", SWEEP_PATH)
    ]  # fmt: skip
    assert yaml.safe_load(service.config) == GOOD
    service.config = ""
    assert begin(begun, environ(service), choose) is begun
    named = begin(file, environ(service), choose, path="ada/other/one")
    assert {plan.spec.wandb_sweep for plan in named.plans} == {"ada/other/one"}
    assert service.config == ""


@pytest.mark.parametrize(
    ("named", "where", "asked"),
    [
        ("abc123", {}, (None, "trainyard")),
        ("abc123", {"WANDB_PROJECT": "tries", "WANDB_ENTITY": "lab"}, ("lab", "tries")),
        ("cats/abc123", {"WANDB_PROJECT": "tries", "WANDB_ENTITY": "lab"}, ("lab", "cats")),
        ("ada/cats/abc123", {"WANDB_PROJECT": "tries", "WANDB_ENTITY": "lab"}, ("ada", "cats")),
    ],
)
def test_a_sweep_is_made_where_the_environment_says_and_looked_for_where_its_name_says_or_else_the_environment(
    named: str, where: dict[str, str], asked: tuple[str | None, str], service: SweepService
) -> None:
    create_sweep(GOOD, {**environ(service), **where})
    assert service.made_in == (where.get("WANDB_ENTITY"), where.get("WANDB_PROJECT", "trainyard"))
    find_sweep(named, {**environ(service), **where})
    assert service.looked_in == asked


def test_a_sweep_is_made_and_found_at_the_service(service: SweepService) -> None:
    assert create_sweep(GOOD, environ(service)) == SWEEP_PATH
    assert yaml.safe_load(service.config) == GOOD
    assert find_sweep("abc123", environ(service)) == (SWEEP_PATH, GOOD)
    with pytest.raises(ConfigError, match="SWEEP=ada/trainyard/other: no such sweep"):
        find_sweep("ada/trainyard/other", environ(service))
    service.state = "FINISHED"
    with pytest.raises(ConfigError, match="SWEEP=abc123: is FINISHED: it gives no more trials"):
        find_sweep("abc123", environ(service))
    service.handler.status = 401
    with pytest.raises(ConfigError, match=rf"{service.address} does not take WANDB_API_KEY \(401\)"):
        find_sweep("abc123", environ(service))
    service.handler.status = 500
    with pytest.raises(ServiceError, match="answered 500"):
        find_sweep("abc123", environ(service))
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        find_sweep("abc123", {**environ(service), "WANDB_BASE_URL": "http://127.0.0.1:9"})


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy takes the planned options that a trial sets; what it is told of W&B is printed."""
    project = make_toy_project(tmp_path / "toy")
    train = project / "trainer" / "train.py"
    said = "print('W&B run', *(os.environ.get(f'WANDB_{n}') for n in ('RUN_ID', 'SWEEP_ID', 'PROJECT', 'ENTITY')))"
    train.write_text(train.read_text().replace("def train():\n", f"def train():\n    {said}\n"))
    (project / "trainer" / "sweep").unlink()
    shutil.copytree(ROOT / "trainer" / "sweep", project / "trainer" / "sweep")
    source = project / "trainer" / "sweep" / "trial.py"
    text = source.read_text()
    source.write_text(text.replace("TELL_EVERY_S = 30.0", "TELL_EVERY_S = 0.3"))
    return project


def member(project: Path, service: SweepService, *, steps: int = 60) -> subprocess.Popen[str]:
    argv = toy_argv("runs/s-0", max_steps=steps, step_s=0.05)
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.supervise", "--", *argv],
        cwd=project, env={"PATH": os.environ["PATH"], SWEEP_ENV: SWEEP_PATH, **environ(service)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def stop_at(process: subprocess.Popen[str], line: str) -> str:
    """Told to stop when it prints `line`; all that it printed."""
    output = ""
    assert process.stdout
    for printed in process.stdout:
        output += printed
        if printed == line:
            process.send_signal(signal.SIGUSR1)
    process.wait(120)
    return output


@pytest.mark.slow
def test_a_member_stores_its_trial_and_comes_back_to_it(toy: Path, service: SweepService) -> None:
    output = stop_at(first := member(toy, service), "step 5\n")
    assert first.returncode == 75, output
    trial = read_trial(toy / "runs" / "s-0")
    assert trial == Trial(run_id="trial1", agent="agent-0", values=VALUES)
    assert "W&B run trial1 abc123 trainyard ada\n" in output
    assert "trial trial1 of ada/trainyard/abc123: learning_rate=0.002 lora_r=32" in output

    output, _ = (second := member(toy, service)).communicate(timeout=120)
    assert second.returncode == 0, output
    assert "going on from step 6" in output or "going on from step 5" in output
    assert "W&B run trial1 abc123 trainyard ada\n" in output
    assert read_losses(toy / "runs" / "s-0") == toy_losses(60)
    assert service.agents == ["agent-0"]  # the second attempt asked for nothing
    assert service.told[0] == {} and {"trial1": True} in service.told[1:] and {} not in service.told[1:]


@pytest.mark.slow
def test_a_trial_that_the_sweep_stops_ends_in_order_and_is_not_taken_up_again(toy: Path, service: SweepService) -> None:
    process, output = member(toy, service, steps=2000), ""
    assert process.stdout
    for printed in process.stdout:
        output += printed
        if printed == "step 5\n":
            service.stop.add("trial1")
    assert process.wait(120) == 0, output
    assert re.search(r"stopped at step \d+", output)
    trial = read_trial(toy / "runs" / "s-0")
    assert trial and trial.stopped
    output, _ = (process := member(toy, service)).communicate(timeout=120)
    said = "trainyard: the sweep stopped trial trial1: nothing is left to do\n"
    assert (process.returncode, bare(output)) == (0, said)


def test_a_sweep_that_gives_no_more_ends_the_member_and_an_unreachable_one_fails_it(
    toy: Path, service: SweepService
) -> None:
    service.trials = []
    output, _ = (process := member(toy, service)).communicate(timeout=120)
    said = "trainyard: the sweep gives no more trials: nothing is left to do\n"
    assert (process.returncode, bare(output)) == (0, said)
    service.handler.status = 401
    output, _ = (process := member(toy, service)).communicate(timeout=120)
    assert process.returncode == 78 and "does not take WANDB_API_KEY" in output and KEY not in output


@pytest.mark.cluster
def test_members_of_an_array_take_a_trial_each_and_keep_it_over_a_requeue(
    cluster: Cluster, toy: Path, records: Path, service: SweepService
) -> None:
    (toy / ".env").write_text(f"WANDB_API_KEY={KEY}\n")
    (toy / ".env").chmod(0o600)
    given: dict[str, Any] = {
        "project_dir": str(toy), "device": "cpu", "data": str(records), "name": "toy", "gpus": 0, "cpus": 1,
        "mem_gib": 32, "time_limit_min": 10, "sweep": "s", "wandb_sweep": SWEEP_PATH,
    }  # fmt: skip
    env = (*ENV, (SWEEP_ENV, SWEEP_PATH), ("WANDB_BASE_URL", service.address))
    plans = []
    for run_id in ("s-0", "s-1"):
        argv = toy_argv(make_plan(run_id=run_id, **given).spec.run_dir, max_steps=60, step_s=0.1, waits_at=10)
        plans.append(make_plan(run_id=run_id, argv=argv, env=env, **given))
    array = submit_sweep(Sweep(sweep_id="s", values=({}, {}), plans=tuple(plans), parallel=2), cluster.environ)
    logs = [toy / "runs" / f"s-{i}" / "logs" / f"slurm-{array}_{i}.log" for i in range(2)]

    def said(index: int) -> str:
        return logs[index].read_text() if logs[index].exists() else ""

    until(lambda: all("step 5\n" in said(i) for i in range(2)), lambda: [said(0), said(1)])
    cluster.run("scancel", "--signal=USR1", f"{array}_1")
    until(lambda: cluster.job(f"{array}_1")["Restarts"] == "1", lambda: said(1))
    (toy / "go").touch()
    until(lambda: cluster.job(f"{array}_0")["JobState"] == "COMPLETED", lambda: said(0))
    assert cluster.start_again(f"{array}_1", ended=True)["JobState"] == "COMPLETED", said(1)
    taken = [read_trial(toy / "runs" / f"s-{i}") for i in range(2)]
    assert {trial.run_id for trial in taken if trial} == {"trial1", "trial2"}
    assert taken[1] and re.findall(r"W&B run (\w+)", said(1)) == [taken[1].run_id] * 2
    assert [read_losses(toy / "runs" / f"s-{i}") for i in range(2)] == [toy_losses(60)] * 2
    assert sorted(service.agents) == ["agent-0", "agent-1"]
    assert KEY not in said(0) + said(1)


@pytest.mark.cluster
def test_make_sweep_makes_the_sweep_once_everything_else_is_known_to_be_right(
    cluster: Cluster, checkout: Path, records: Path, service: SweepService
) -> None:
    (checkout / "wandb_sweep.yaml").write_bytes((ROOT / "wandb_sweep.yaml").read_bytes())
    words = ["DEVICE=cpu", f"DATA={records}", "TRIALS=2", "RUN=s", "TIME=10"]
    refused = cluster.run("make", "sweep", *words, cwd=checkout, check=False)
    assert refused.stderr.startswith("trainyard: a W&B sweep needs WANDB_API_KEY= in .env, where its jobs read it")
    (checkout / ".env").write_text(f"WANDB_API_KEY={KEY}\nWANDB_BASE_URL={service.address}\n")
    (checkout / ".env").chmod(0o600)
    refused = cluster.run("make", "sweep", *words, "PARTITION=lo", cwd=checkout, check=False)
    assert refused.stderr.startswith("trainyard: PARTITION=lo: no such partition, did you mean low?")
    assert (service.config, (checkout / "runs").exists()) == ("", False)
    done = cluster.run("make", "sweep", *words, cwd=checkout)
    assert f"W&B     {SWEEP_PATH}\n" in done.stdout and KEY not in done.stdout
    assert yaml.safe_load(service.config) == GOOD
    assert json.loads((checkout / "runs" / "s" / "sweep.json").read_text())["wandb"] == SWEEP_PATH
    script = (checkout / "runs" / "s" / "job.sbatch").read_text()
    assert f"\nexport {SWEEP_ENV}={SWEEP_PATH}\n" in script and KEY not in script
    cluster.run("make", "cancel", "RUN=s", cwd=checkout)


@pytest.mark.slow
def test_trials_run_here_one_after_another_with_the_real_trainer_and_client(
    checkout: Path, tiny_model: Path, walks: Path, service: SweepService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**environ(service), "WANDB_MODE": "online", "TMPDIR": str(checkout)}.items():
        monkeypatch.setenv(name, value)
    (checkout / "wandb_sweep.yaml").write_bytes((ROOT / "wandb_sweep.yaml").read_bytes())
    words = ("--model", str(tiny_model), "--data", str(walks), "--run", "tries", "--trials", "2", "--max-steps", "4")
    output, _ = (process := local(checkout, *words)).communicate(timeout=300)
    assert process.returncode == 0, output
    assert yaml.safe_load(service.config) == GOOD
    for index, alpha in enumerate((64, 128)):
        config = json.loads((checkout / "runs" / f"tries-{index}" / "metrics.json").read_text())["config"]
        assert {name: config[name] for name in VALUES} == {**VALUES, "lora_alpha": alpha}
    runs = {
        tuple(b.get(key) for key in ("name", "displayName", "groupName", "sweep")) for b in service.handler.seen["runs"]
    }
    assert {("trial1", "tries-0", "tries", "abc123"), ("trial2", "tries-1", "tries", "abc123")} <= runs, runs
    assert any("eval/action_accuracy" in entry for entry in service.handler.seen["history"])
    table = output[output.index("sweep  tries\n", output.index("member 1 of 2")) :].splitlines()
    assert table[2].split()[:3] == ["member", "learning_rate", "lora_r"]
    assert {line.split()[3] for line in table[3:5]} == {"64", "128"}
