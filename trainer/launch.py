"""The command of a job as a value, which is turned into words last. The only module that spells `accelerate
launch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from trainer.flags import Range, option_of, split_flags
from trainer.outcome import ConfigError
from trainer.settings import STAND_ALONE
from trainer.spellings import ALLOCATOR

# The plan's figures in a job's environment: the GPU's nominal memory, and the predicted memory of a process.
VRAM_ENV, PEAK_ENV = "TRAINYARD_VRAM_GIB", "TRAINYARD_PEAK_GIB"
PLANNED_ENVIRONMENT = {
    ALLOCATOR: "expandable_segments:True",  # lengths vary from batch to batch; fixed segments would fragment
    "TOKENIZERS_PARALLELISM": "false",
}
"""What a plan says to the processes of a job where nobody says anything else."""
COUNT = option_of(Annotated[int, Range(1, 1_000_000)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """The command without what only a node knows: the node's rank and the first node's address."""

    configuration: str = ""
    """Path of accelerate's YAML file, seen from the checkout; empty for accelerate's own default."""
    processes: int = 1
    """Number of processes on all machines together."""
    machines: int = 1
    overrides: tuple[str, ...] = ()
    """Further words for `accelerate launch`, where the command line overrides the configuration file."""
    module: str
    """The Python module that each process runs."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The module's settings by name, as they are typed."""

    def words(self) -> tuple[str, ...]:
        return ("accelerate", "launch", *self.launcher_words(), *self.setting_words())

    def launcher_words(self) -> tuple[str, ...]:
        """The words behind `accelerate launch`, up to the module."""
        configuration = ("--config_file", self.configuration) if self.configuration else ()
        counts = ("--num_processes", str(self.processes), "--num_machines", str(self.machines))
        return (*configuration, *counts, *self.overrides, "-m", self.module)

    def setting_words(self) -> tuple[str, ...]:
        """The words for the module itself."""
        return tuple(word for name, text in self.settings.items() for word in (f"--{name}", text))

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Launch:
        """The inverse of `words`. Raises ConfigError for words that are not the command of a plan."""
        if list(words[:2]) != ["accelerate", "launch"] or "-m" not in words[2:-1]:
            raise ConfigError("supervise takes the plan's command: -- accelerate launch ... -m trainer.train ...")
        place = words.index("-m", 2)
        own = {"--config_file": "", "--num_processes": "1", "--num_machines": "1"}
        overrides: list[str] = []
        launcher = iter(words[2:place])
        for word in launcher:
            flag, equals, text = word.partition("=")
            if flag in own:
                own[flag] = text if equals else next(launcher, "")
            else:
                overrides.append(word)
        return cls(
            configuration=own["--config_file"],
            processes=_count("--num_processes", own),
            machines=_count("--num_machines", own),
            overrides=tuple(overrides),
            module=words[place + 1],
            settings=split_flags(words[place + 2 :], STAND_ALONE),
        )


def _count(flag: str, texts: Mapping[str, str]) -> int:
    if (count := COUNT.read(texts[flag])) is None:
        raise ConfigError(name=flag, given=texts[flag], allowed=f"takes {COUNT.allowed}")
    return int(count)


def shipped(name: str) -> str:
    """The path of one of the accelerate configurations that this project ships."""
    return f"accelerate_configs/{name}.yaml"
