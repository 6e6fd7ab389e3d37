"""The job's command as a value, and the one way back from words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.launch import Launch, shipped
from trainer.outcome import ConfigError

NAMES = st.from_regex(r"[a-z][a-z_]{0,11}", fullmatch=True)
LAUNCHES = st.builds(
    Launch,
    configuration=st.sampled_from(["", shipped("multi_gpu"), "a folder/it's.yaml"]),
    processes=st.integers(1, 512),
    machines=st.integers(1, 64),
    overrides=st.sampled_from([(), ("--cpu",), ("--offload_optimizer_device", "cpu", "--cpu")]),
    module=st.sampled_from(["trainer.train", "worker"]),
    settings=st.dictionaries(NAMES, st.text(max_size=8) | st.sampled_from(["-m", "--model", "true", "-5"])),
)


@given(launch=LAUNCHES)
def test_words_say_all_of_it(launch: Launch) -> None:
    assert Launch.from_words(launch.words()) == launch


def test_what_a_person_types_is_the_same_command() -> None:
    typed = "accelerate launch --config_file=a.yaml --num_processes=2 --cpu -m trainer.train --max-steps=3 --strict"
    expected = Launch(
        configuration="a.yaml",
        processes=2,
        overrides=("--cpu",),
        module="trainer.train",
        settings={"max_steps": "3", "strict": "true"},
    )
    assert Launch.from_words(typed.split()) == expected


def test_without_a_count_it_is_one_process_on_one_machine() -> None:
    found = Launch.from_words(["accelerate", "launch", "-m", "trainer.train"])
    assert (found.configuration, found.processes, found.machines, found.overrides) == ("", 1, 1, ())


@pytest.mark.parametrize("words", ["", "rm -rf", "accelerate launch", "accelerate launch -m", "accelerate test -m x"])
def test_what_is_no_plans_command_is_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=r"supervise takes the plan's command: -- accelerate launch \.\.\. -m "):
        Launch.from_words(words.split())


@pytest.mark.parametrize(("words", "said"), [
    ("--num_processes two -m x", "--num_processes=two: takes a whole number from 1 to 1000000"),
    ("--num_machines 0 -m x", "--num_machines=0: takes a whole number from 1 to 1000000"),
    ("-m x --seed 1 --seed 2", "--seed was given twice"),
    ("-m x seed", "unexpected 'seed': options are written --name value or --name=value"),
])  # fmt: skip
def test_words_that_no_launch_has_are_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Launch.from_words(["accelerate", "launch", *words.split()])
    assert str(caught.value) == said
