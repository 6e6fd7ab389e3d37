"""A run's W&B side, in a thread of its own: the training only puts tasks into a queue.

The client waits for the network when it opens a run, when it logs a table and when it finishes, and its service
process may hang; none of that delays a step. Without an API key, or with an unreachable service, the run is kept
offline beside the others and the command that uploads it is printed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trainer import log
from trainer.commands import command
from trainer.env_file import watched
from trainer.files import without_link
from trainer.node.processes import kill_descendants
from trainer.outcome import RUN_AGAIN
from trainer.placeholder import NOT_FILLED_IN, placeholders
from trainer.report.charts import Confusion, Entry
from trainer.report.samples import sheet
from trainer.secret_shapes import told
from trainer.text import printable, printable_lines
from trainer.tracking.wandb_text import bound_names, sendable

CLIENT = {
    "WANDB_PROJECT": "trainyard", "WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "30", "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    # The client sends the remote's address, and a token in it. The commit is in the run's configuration.
    "WANDB_DISABLE_GIT": "true",
}  # fmt: skip
"""The client's default settings, which the environment overrides; times in seconds."""
QUEUE_TIMEOUT_S = 30
"""For the tasks that are left when the run is over; finishing comes on top."""
STOP_TIMEOUT_S = 10
"""The whole time for a run that was stopped and will continue, or that failed."""
KEY = "WANDB_API_KEY"
STEP = "train/global_step"
LABEL_CHARS = 80
"""Most characters of an action's name in a chart's legend."""


class WandbRun:
    """One W&B run for each run id, continued over attempts. Only `finish` waits for W&B, and not for long.

    The client reads WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS, WANDB_NOTES and WANDB_MODE itself;
    WANDB_WATCH (gradients, parameters or all) logs histograms of the trained parameters every `logging_steps`; only
    these are passed to the client inside the training step.
    """

    def __init__(self, facts: Mapping[str, Any], model: Any) -> None:
        """`facts` describe this run in W&B's table of runs; the fields of a TrainConfig are among them."""
        self._facts = facts
        # Pictures of tables wait for their upload in the run's folder, not in a home folder that may be read-only.
        folder = Path(facts["output_dir"], "wandb")
        for name in ("wandb", ".wandb"):  # the client takes the second where it is there
            without_link(folder.with_name(name))
        prepare_client(WANDB_DATA_DIR=str(folder))
        self._run: Any = None
        self._failed = False
        self._tasks: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if watch := _what_to_watch():
            from trainer.tracking.watched import trained_parameters

            self._tasks.put(partial(_watch, trained_parameters(model), watch, facts))
        self._thread.start()

    @property
    def link(self) -> str | None:
        run = self._run
        return None if run is None or run.offline else str(run.url)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self._tasks.put(lambda run: run.log({**values, STEP: step}))

    def show(self, confusion: Confusion, samples: Sequence[Entry], step: int) -> None:
        """Log a table of the samples with their pictures, the confusion matrix, and the counts of each action.

        For a table the client asks the service at once, and waits half a minute when it does not answer. So after a
        failure no more tables are logged; the sheet of samples, which comes first, needs no service.
        """

        def task(run: Any) -> None:
            run.log({"eval/sheet": sys.modules["wandb"].Image(sheet(samples)), STEP: step})
            if not self._failed:
                run.log({**_tables(confusion, samples), STEP: step})

        self._tasks.put(task)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Upload what is left and close the run. Prints how to upload anything that did not arrive."""
        self._tasks.put(lambda run: run.summary.update(sendable(summary)))
        finish_s = self._run.settings.finish_timeout if self._run else QUEUE_TIMEOUT_S
        self._end(exit_code=0, timeout_s=QUEUE_TIMEOUT_S + finish_s)

    def _work(self) -> None:
        self._run = self._open()
        while (task := self._tasks.get()) is not None:
            try:
                if self._run is not None:
                    task(self._run)
            except Exception as error:  # any error of the client, its service or the network
                self._failed = True
                if self._run is not None:
                    log.say(f"W&B: something was not logged ({words(error)})")

    def _open(self) -> Any:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get(KEY) else "offline")
        for attempt in dict.fromkeys((mode, "offline")) if mode != "disabled" else ():
            try:
                import wandb

                name, folder = self._facts["run_id"], self._facts["output_dir"]
                run: Any = wandb.init(
                    id=name, name=name, dir=folder, config=sendable(self._facts), resume="allow", mode=attempt
                )
                run.define_metric("*", step_metric=STEP)  # this asks the client's service, too
            except Exception as error:
                then = "without it" if attempt == "offline" else "offline"
                log.say(f"W&B {attempt} failed ({words(error)}): going on {then}")
                _end_client()  # the client would keep the run's id
                continue
            # Registered after the client's own handler, so that it runs first: a dead server must not block the
            # process.
            atexit.register(self._leave)
            log.say(f"W&B is offline; {_upload(run)}" if run.offline else f"W&B: {run.url}")
            return run
        return None

    def _leave(self) -> None:
        """End the W&B run of a process that has not finished: it was stopped, to continue later, or failed."""
        failed = hasattr(sys, "last_value")
        if not failed:
            self._tasks.put(lambda run: run.mark_preempting())
        self._end(exit_code=1 if failed else RUN_AGAIN, timeout_s=STOP_TIMEOUT_S)

    def _end(self, *, exit_code: int, timeout_s: float) -> None:
        if not self._thread.is_alive():
            return
        self._tasks.put(lambda run: run.finish(exit_code=exit_code))
        self._tasks.put(None)
        self._thread.join(timeout_s)
        run, stuck = self._run, self._thread.is_alive()
        if stuck:
            self._run = None  # nothing more is logged or reported
            kill_descendants()  # the client's service: this process would wait for it at its end
        if stuck or self._failed:  # a scheduler's SIGTERM reaches the service, too
            _end_client()
        if run is not None and (stuck or (not run.offline and (self._failed or _has_errors(run)))):
            log.say(f"W&B may lack a part of this run; {_upload(run)}")


def _what_to_watch() -> str | None:
    watch = watched(os.environ)
    if watch in (None, "gradients") or os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        return watch
    log.say(f"W&B: WANDB_WATCH={watch} logs no parameters under ZeRO-3, where no process has them whole")
    return "gradients" if watch == "all" else None


def _watch(parameters: Any, watch: str, facts: Mapping[str, Any], run: Any) -> None:
    # The client counts batches.
    run.watch(parameters, log=watch, log_freq=facts["logging_steps"] * facts["gradient_accumulation_steps"])


def prepare_client(**more: str) -> None:
    """Set CLIENT, and `more`, in the environment, and bound the names in it; call before the client reads the
    environment."""
    if KEY in placeholders(os.environ):
        log.complain(f"{KEY} {NOT_FILLED_IN}")
        os.environ[KEY] = ""
    for name, value in {**CLIENT, **more}.items():
        os.environ[name] = os.environ.get(name) or value
    bound_names()


def _upload(run: Any) -> str:
    return f"to upload: {command('wandb', 'sync', '--include-online', Path(run.dir).parent)}"


def _end_client() -> None:
    """End the client's service, so that the client reports nothing at exit."""
    with contextlib.suppress(Exception):
        sys.modules["wandb"].teardown()


def _has_errors(run: Any) -> bool:
    """Whether the client's service logged errors; the result of `finish` does not tell whether a row arrived or was
    refused."""
    log = Path(run.dir).parent / "logs" / "debug-internal.log"
    return log.is_file() and '"level":"ERROR' in log.read_text(encoding="utf-8", errors="replace")


def words(error: Exception) -> str:
    """The client's message on one line, without the key."""
    said = " ".join(str(error).split())
    return told(said.replace(os.environ.get(KEY) or "\0", "(key)"))[:200]


def _cell(text: str | None) -> str | None:
    return text and printable_lines(text)


def _tables(confusion: Confusion, samples: Sequence[Entry]) -> dict[str, Any]:
    import wandb

    rows = [
        [s["picture"] and wandb.Image(s["picture"]), *map(_cell, (s.get("prompt", ""), s["truth"], s["prediction"])),
         s["truth"] == s["prediction"], _cell(s.get("answer", ""))]
        for s in samples
    ]  # fmt: skip
    names = list(next(iter(confusion.values())))
    labels = [printable(name)[:LABEL_CHARS] for name in names]
    pairs = [(truth, said) for truth, row in confusion.items() for said, count in row.items() for _ in range(count)]
    truths, answers = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
    found: dict[str, Any] = {
        "eval/samples": wandb.Table(columns=["picture", "prompt", "truth", "prediction", "right", "answer"], data=rows),
        "eval/confusion": wandb.plot.confusion_matrix(
            y_true=truths, preds=answers, class_names=labels, title="truth and prediction"
        ),
    }
    for title, said in (("targets", truths), ("predictions", answers)):
        counts = wandb.Table(columns=["action", "answers"], data=[[n, said.count(i)] for i, n in enumerate(labels)])
        found[f"eval/{title}"] = wandb.plot.bar(counts, "action", "answers", title=title)
    return found
