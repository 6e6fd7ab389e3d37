"""How `make test-fast` hands its tests out (`--dist loadgroup`): loading the libraries of training takes as long as
hundreds of tests, so the first worker alone collects and runs the files that load them. Each worker begins when it has
collected: the others are through with many files when the first has loaded its libraries."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from xdist.scheduler import LoadFileScheduling

LIBRARIES = {"accelerate", "peft", "torch", "transformers", "trl"}
IMPORT = re.compile(r"^( *)(?:from|import) ([\w.]+)(?: import ([\w, ]+))?", re.MULTILINE)
TINY_MODEL = re.compile(r"\btiny_\w+: Path")
WITH_LIBRARIES = "files that load libraries"


@functools.cache
def _imported(file: Path, inside: bool) -> tuple[str, ...]:
    """The modules that a file imports, those of its functions only where `inside` asks for them."""
    found = IMPORT.findall(file.read_text(encoding="utf-8")) if file.is_file() else ()
    wanted = [(module, names) for indent, module, names in found if inside or not indent]
    return tuple(name for module, names in wanted for name in (module, *(f"{module}.{n}" for n in names.split(", "))))


@functools.cache
def loads_libraries(file: Path) -> bool:
    """Whether a test file loads the libraries of training, itself or with a module of ours."""
    seen, left = set[str](), list(_imported(file, inside=True))
    for name in left:  # which grows meanwhile
        if name.split(".")[0] in LIBRARIES:
            return True
        if name not in seen:
            seen.add(name)
            places = (folder / f"{name.replace('.', '/')}.py" for folder in (ROOT, ROOT / "tests" / "helpers"))
            left += [found for place in places for found in _imported(place, inside=False)]
    return TINY_MODEL.search(file.read_text(encoding="utf-8")) is not None


def starts_without_libraries(config: pytest.Config) -> bool:
    """Whether this is one of the workers that never load the libraries of training: all that the run begins with but
    the first. A worker that takes the place of a crashed one has a higher number and takes all."""
    given = getattr(config, "workerinput", None)
    return bool(given and config.option.loadgroup and 0 < int(given["workerid"][2:]) < given["workercount"])


class FastSchedule(LoadFileScheduling):
    """Files are handed out whole, and those that load the libraries of training as one."""

    @property
    def collection_is_completed(self) -> bool:
        """Whether tests can be handed out: as soon as one worker has collected."""
        return bool(self.registered_collections)

    @property
    def _all_have_collected(self) -> bool:
        return len(self.registered_collections) >= self.numnodes

    @property
    def tests_finished(self) -> bool:
        return self._all_have_collected and super().tests_finished

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return WITH_LIBRARIES if loads_libraries(self.config.rootpath / file) else file

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Queue the tests that no worker has named before."""
        known = set(self.collection or ())
        self.registered_collections[node] = list(collection)
        self.collection = [*(self.collection or ()), *(one for one in collection if one not in known)]
        for one in self.collection[len(known) :]:
            self.workqueue.setdefault(self._split_scope(one), {})[one] = False
        if WITH_LIBRARIES in self.workqueue:
            self.workqueue.move_to_end(WITH_LIBRARIES, last=False)

    def schedule(self) -> None:
        self.config.pluginmanager.getplugin("dsession")._session.testscollected = len(self.collection or ())
        if self._all_have_collected:
            self._compare_collections()
        for node in self.nodes:
            self._reschedule(node)

    def _compare_collections(self) -> None:
        """Report a failure where workers have found other tests in the files that all of them collect."""
        found = self.registered_collections
        self.registered_collections = {
            node: [one for one in ids if self._split_scope(one) != WITH_LIBRARIES] for node, ids in found.items()
        }
        self._check_nodes_have_same_collection()
        self.registered_collections = found

    def _reschedule(self, node: Any) -> None:
        """Give a worker a file that it has collected when it has at most two tests left: it keeps its last one back
        until it knows of a next."""
        if node not in self.registered_collections or node.shutting_down:
            return
        while self._pending_of(self.assigned_work[node]) <= 2:
            its = set(self.registered_collections[node])
            scope = next((scope for scope, unit in self.workqueue.items() if its.issuperset(unit)), None)
            if scope is None:
                if self._all_have_collected:
                    node.shutdown()
                return
            self.workqueue.move_to_end(scope, last=False)
            self._assign_work_unit(node)
