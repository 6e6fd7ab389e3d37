"""A run's W&B side, in a thread of its own: the training only puts what there is to say into a queue.

The client waits for the network when it opens a run, when it logs a table and when it finishes, and its service
process can stop reading; none of that reaches a step. Without an API key, or with the service out of reach, the run
is kept offline beside the others and the command that uploads it is printed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.node.processes import kill_descendants
from trainer.outcome import RUN_AGAIN
from trainer.tracking.shown import Shown, sheet

PROJECT = "trainyard"
INIT_TIMEOUT_S = 20
FINISH_TIMEOUT_S = 30
QUEUE_TIMEOUT_S = 30
"""For what is still to be logged when the run is over; finishing comes on top."""
STOP_TIMEOUT_S = 10
"""All that a run is given that was stopped and will go on, or that failed."""
STEP = "train/global_step"


class WandbRun:
    """One W&B run a run id, continued over attempts. Nothing here waits for W&B but `finish`, and that not for long.

    The client reads WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS, WANDB_NOTES and WANDB_MODE itself;
    WANDB_WATCH (gradients, parameters or all) logs histograms of the adapters every `watch_steps`; they alone are
    handed to the client from inside the training step.
    """

    def __init__(self, *, run_id: str, run_dir: Path, config: Mapping[str, Any], model: Any, watch_steps: int) -> None:
        given = os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_TIMEOUT_S))
        # The client says itself what is wrong with a value that is no number.
        self._finish_timeout_s = float(given) if given.replace(".", "", 1).isdigit() else FINISH_TIMEOUT_S
        os.environ.setdefault("WANDB_SILENT", "true")
        # Pictures of tables wait here for their upload: with the run, not in a home that may be read-only.
        os.environ.setdefault("WANDB_DATA_DIR", str(run_dir / "wandb"))
        self._run_id, self._run_dir, self._config = run_id, run_dir, config
        self._run: Any = None
        self._tables_pass, self._given_up, self._failed = True, False, False
        self._tasks: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        watch = os.environ.get("WANDB_WATCH", "").lower()
        if watch in ("gradients", "parameters", "all"):
            self._tasks.put(lambda run: run.watch(model, log=watch, log_freq=watch_steps))
        self._thread.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self._tasks.put(lambda run: run.log({**values, STEP: step}))

    def show(self, shown: Shown) -> None:
        """A table of the samples with their pictures, the confusion matrix, and how often each action was said.

        The client asks the service about a table at this very moment, for half a minute when it does not answer. So
        tables are not tried again after one failed; the samples on one sheet, which come first, need nobody.
        """
        self._tasks.put(lambda run: run.log({**_sheet(shown), STEP: shown.step}))
        self._tasks.put(lambda run: self._log_tables(run, shown))

    def _log_tables(self, run: Any, shown: Shown) -> None:
        tried, self._tables_pass = self._tables_pass, False
        if tried:
            run.log({**_tables(shown), STEP: shown.step})
            self._tables_pass = True

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Upload what is left and close the run. Says how to upload what did not get there."""
        self._tasks.put(lambda run: run.summary.update(dict(summary)))
        self._end(exit_code=0, timeout_s=QUEUE_TIMEOUT_S + self._finish_timeout_s)

    def _work(self) -> None:
        self._run = self._open()
        while (task := self._tasks.get()) is not None:
            if self._run is None or self._given_up:
                continue
            try:
                task(self._run)
            except Exception as error:  # whatever the client, its service or the network raise
                self._failed = True
                if not self._given_up:
                    _say(f"W&B: something was not logged ({_words(error)})")

    def _open(self) -> Any:
        if os.environ.get("WANDB_MODE") == "disabled":
            return None
        try:
            import wandb
        except ImportError as error:
            _say(f"W&B is off: {error}")
            return None
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        for attempt in dict.fromkeys((mode, "offline")):
            last = attempt == "offline"
            try:
                run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT") or PROJECT,
                    id=self._run_id,
                    name=self._run_id,
                    dir=str(self._run_dir),
                    config=dict(self._config),
                    resume="allow",
                    mode=attempt,  # type: ignore[arg-type]
                    settings=wandb.Settings(init_timeout=INIT_TIMEOUT_S, console="off", silent=True),
                )
            except Exception as error:
                then = "without it" if last else "offline"
                _say(f"W&B {attempt} failed ({_words(error)}): going on {then}")
                wandb.teardown()  # its service would hold on to the run's id
                continue
            # After the client's own, so that it runs before that: a dead server must not hold the process.
            atexit.register(self._leave)
            run.define_metric("*", step_metric=STEP)
            _say(f"W&B is offline; {self._upload(run)}" if run.offline else f"W&B: {run.url}")
            return run
        return None

    def _leave(self) -> None:
        """At the end of a process whose run is not finished: stopped, to go on later, or failed."""
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
        stuck = self._thread.is_alive()
        if stuck:
            self._given_up = True
            kill_descendants()  # the client's service, which the end of this process would wait for
        if stuck or self._failed:  # a scheduler's SIGTERM reaches the service, too
            with contextlib.suppress(Exception):  # nor shall the client say at the exit that it is gone
                sys.modules["wandb"].teardown()
        if self._run is not None and (stuck or (not self._run.offline and (self._failed or _has_errors(self._run)))):
            _say(f"W&B may lack a part of this run; {self._upload(self._run)}")

    def _upload(self, run: Any) -> str:
        return f"to upload: wandb sync --include-online {Path(run.dir).parent}"


def _say(text: str) -> None:
    """In one write: the training prints too."""
    print(f"{text}\n", end="", flush=True)


def _has_errors(run: Any) -> bool:
    """Whether the client's service had trouble; `finish` returns the same whether a row arrived or was refused."""
    with contextlib.suppress(OSError):
        log = Path(run.dir).parent / "logs" / "debug-internal.log"
        return '"level":"ERROR' in log.read_text(encoding="utf-8", errors="replace")
    return False


def _words(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    key = os.environ.get("WANDB_API_KEY")
    return said.replace(key, "(key)") if key else said


def _sheet(shown: Shown) -> dict[str, Any]:
    import wandb

    return {"eval/sheet": wandb.Image(sheet(shown.samples))} if shown.samples else {}


def _tables(shown: Shown) -> dict[str, Any]:
    import wandb

    rows = [
        [wandb.Image(s.picture) if s.picture else None, s.truth, s.prediction, s.truth == s.prediction, s.answer]
        for s in shown.samples
    ]
    columns = ["picture", "truth", "prediction", "right", "answer"]
    found: dict[str, Any] = {"eval/samples": wandb.Table(columns=columns, data=rows)}
    names = list(dict.fromkeys((*shown.confusion, *(p for row in shown.confusion.values() for p in row))))
    pairs = [
        (names.index(t), names.index(p)) for t, row in shown.confusion.items() for p, n in row.items() for _ in range(n)
    ]
    found["eval/confusion"] = wandb.plot.confusion_matrix(
        y_true=[t for t, _ in pairs], preds=[p for _, p in pairs], class_names=names, title="truth and prediction"
    )
    for key, place in (("targets", 0), ("predictions", 1)):
        counts = [[name, sum(pair[place] == index for pair in pairs)] for index, name in enumerate(names)]
        table = wandb.Table(columns=["action", "records"], data=counts)
        found[f"eval/{key}"] = wandb.plot.bar(table, "action", "records", title=key)
    return found
