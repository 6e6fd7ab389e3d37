"""The demo's data: a small walking game, played by its own rule and written as training records.

    python -c "from pathlib import Path; from examples.demo.frames import write_dataset;
    print(write_dataset(Path('demo-data'), episodes=60, eval_episodes=12))"

The rule, which a person can check by looking at the last frame: press `a` when something stands on the road in
front of you (a bush to cut, a villager to greet, the chest that ends the walk); otherwise take the road tile next
to you that has no footprints yet. The camera follows the player, who is always in the middle.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from examples.demo.sprites import TILE_PX, sprite

VIEW_TILES = 7  # odd, so that the player's tile is the middle one
FRAME_PX = VIEW_TILES * TILE_PX
FRAMES_PER_RECORD = 4
STEPS: dict[str, tuple[int, int]] = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
BUTTONS = (*STEPS, "a")
CONTEXT = "Follow the road to the chest."
QUESTION = "Which button is next?"

_ROAD_TILES = 26
_STRAIGHT_SHARE = 0.4  # of steps that go straight on; the rest turn, so that looking at the map pays
_BLOCKER_SHARE = 0.8  # of the straight stretches: with this `a` is about as frequent as each direction

Cell = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The screen at one moment, and the right button to press then."""

    position: int  # index into the episode's road
    facing: str
    cleared: frozenset[int]  # road indices whose bush or villager is gone
    button: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One map with one walk along its road, from the first tile to the chest on the last."""

    session_id: str
    road: tuple[Cell, ...]
    blockers: dict[int, str]  # road index -> bush | villager | chest
    scenery: dict[Cell, str]  # every visible cell that is not road
    turns: tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSummary:
    """The result of `write_dataset`: paths, record counts and how often each button is the answer."""

    train: Path
    eval: Path
    train_answers: dict[str, int]
    eval_answers: dict[str, int]

    @property
    def eval_majority_share(self) -> float:
        """The accuracy of always giving the held-out records' most frequent answer, 0 to 1."""
        return max(self.eval_answers.values()) / sum(self.eval_answers.values())


def _beside(cell: Cell, button: str) -> Cell:
    return cell[0] + STEPS[button][0], cell[1] + STEPS[button][1]


def _direction(start: Cell, end: Cell) -> str:
    return next(button for button in STEPS if _beside(start, button) == end)


def _draw_road(rng: random.Random) -> tuple[Cell, ...]:
    """Returns a road that never touches itself, so that every tile has one way back and one way on."""
    while True:
        road: list[Cell] = [(0, 0)]
        heading = rng.choice(tuple(STEPS))
        while len(road) < _ROAD_TILES:
            turns = [b for b in STEPS if (STEPS[b][0] == 0) != (STEPS[heading][0] == 0)]
            rng.shuffle(turns)
            # The last two tiles are straight: the player must arrive facing the chest.
            straight_first = rng.random() < _STRAIGHT_SHARE or len(road) == _ROAD_TILES - 1
            order = [heading, *turns] if straight_first else [*turns, heading]
            for button in order:
                cell = _beside(road[-1], button)
                if all(_beside(cell, b) not in road or _beside(cell, b) == road[-1] for b in STEPS):
                    road.append(cell)
                    heading = button
                    break
            else:
                break
        if len(road) == _ROAD_TILES and _is_straight(road, _ROAD_TILES - 1):
            return tuple(road)


def _rotated(road: tuple[Cell, ...], quarter_turns: int) -> tuple[Cell, ...]:
    for _ in range(quarter_turns):
        road = tuple((-y, x) for x, y in road)
    return road


def _is_straight(road: list[Cell] | tuple[Cell, ...], index: int) -> bool:
    """Whether the player, walking along `road`, arrives facing the tile at `index`."""
    if index < 2:
        return False
    before, here, ahead = road[index - 2 : index + 1]
    return _direction(before, here) == _direction(here, ahead)


def _draw_blockers(rng: random.Random, road: tuple[Cell, ...]) -> dict[int, str]:
    blockers = {len(road) - 1: "chest"}
    for index in range(2, len(road) - 2):
        if index - 1 not in blockers and _is_straight(road, index) and rng.random() < _BLOCKER_SHARE:
            blockers[index] = rng.choice(("bush", "villager"))
    return blockers


def _draw_scenery(rng: random.Random, road: tuple[Cell, ...]) -> dict[Cell, str]:
    reach = VIEW_TILES // 2
    on_road = set(road)
    offsets = range(-reach, reach + 1)
    # Sorted: a set's order must not decide what the generator draws.
    seen = sorted({(x + dx, y + dy) for x, y in road for dx in offsets for dy in offsets})
    ponds = [(*rng.choice(seen), rng.uniform(1.2, 2.6)) for _ in range(4)]
    scenery = {}
    for x, y in seen:
        if (x, y) in on_road:
            continue
        in_pond = any((x - px) ** 2 + (y - py) ** 2 <= radius**2 for px, py, radius in ponds)
        kind = rng.choices(("grass", "flower", "tree"), (6, 1, 3))[0]
        scenery[x, y] = "water" if in_pond else kind
    return scenery


def _walk(road: tuple[Cell, ...], blockers: dict[int, str]) -> Iterator[Turn]:
    position, facing, cleared = 0, _direction(road[0], road[1]), frozenset[int]()
    while len(road) - 1 not in cleared:
        blocked = position + 1 in blockers and position + 1 not in cleared
        button = "a" if blocked else _direction(road[position], road[position + 1])
        yield Turn(position=position, facing=facing, cleared=cleared, button=button)
        if blocked:
            cleared |= {position + 1}
        else:
            position, facing = position + 1, button


def play(session_id: str, road: tuple[Cell, ...], rng: random.Random) -> Episode:
    """Returns one episode along `road`, walked by the rule; blockers and scenery are drawn from `rng`."""
    blockers = _draw_blockers(rng, road)
    scenery = _draw_scenery(rng, road)
    turns = tuple(_walk(road, blockers))
    return Episode(session_id=session_id, road=road, blockers=blockers, scenery=scenery, turns=turns)


def play_many(prefix: str, count: int, rng: random.Random) -> list[Episode]:
    """Returns `count` episodes. Each road is used four times, a quarter turn on and in new scenery each time.

    A winding road drifts somewhere; turned to all four sides it asks for every direction equally often.
    """
    episodes = []
    for number in range(count):
        if number % 4 == 0:
            road = _draw_road(rng)
        episodes.append(play(f"{prefix}-{number:04d}", _rotated(road, number % 4), rng))
    return episodes


def draw_frame(episode: Episode, turn: Turn) -> Image.Image:
    """Returns the screen at `turn`: RGB, 112 x 112 px, 7 x 7 tiles with the player on the middle one."""
    index_of = {cell: index for index, cell in enumerate(episode.road)}
    centre_x, centre_y = episode.road[turn.position]
    frame = Image.new("RGB", (FRAME_PX, FRAME_PX))
    reach = VIEW_TILES // 2

    def put(name: str, corner: tuple[int, int]) -> None:
        frame.paste(sprite(name), corner, sprite(name))

    for row in range(VIEW_TILES):
        for column in range(VIEW_TILES):
            cell = (centre_x + column - reach, centre_y + row - reach)
            corner = (column * TILE_PX, row * TILE_PX)
            index = index_of.get(cell)
            if index is None:
                put(episode.scenery[cell], corner)
                continue
            put("trodden" if index < turn.position else "road", corner)
            if index in episode.blockers and index not in turn.cleared:
                put(episode.blockers[index], corner)
    put(f"player_{turn.facing}", (reach * TILE_PX, reach * TILE_PX))
    return frame


def _balanced(episodes: Iterable[Episode], rng: random.Random) -> list[tuple[Episode, int]]:
    """Returns (episode, turn index) pairs with every button equally often, in the order of play."""
    by_button: dict[str, list[tuple[Episode, int]]] = {button: [] for button in BUTTONS}
    for episode in episodes:
        for index in range(FRAMES_PER_RECORD - 1, len(episode.turns)):
            by_button[episode.turns[index].button].append((episode, index))
    share = min(len(moments) for moments in by_button.values())
    chosen = [moment for moments in by_button.values() for moment in rng.sample(moments, share)]
    return sorted(chosen, key=lambda moment: (moment[0].session_id, moment[1]))


def _write_split(folder: Path, name: str, count: int, rng: random.Random) -> tuple[Path, dict[str, int]]:
    path = folder / f"{name}.jsonl"
    episodes = play_many(name, count, rng)
    lines, answers, drawn = [], Counter[str](), set[str]()
    for episode, last in _balanced(episodes, rng):
        turns = list(range(last - FRAMES_PER_RECORD + 1, last + 1))
        frames = [f"frames/{episode.session_id}-{turn:02d}.png" for turn in turns]
        for turn, frame in zip(turns, frames, strict=True):
            if frame not in drawn:
                draw_frame(episode, episode.turns[turn]).save(folder / frame)
                drawn.add(frame)
        answers[button := episode.turns[last].button] += 1
        record = {
            "frames": frames,
            "context": CONTEXT,
            "question": QUESTION,
            "output": json.dumps({"button": button}),
            "metadata": {"session_id": episode.session_id, "turns": turns},
        }
        lines.append(json.dumps(record))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path, dict(answers)


def write_dataset(folder: Path, *, episodes: int, eval_episodes: int, seed: int = 0) -> DatasetSummary:
    """Writes `train.jsonl`, `eval.jsonl` and `frames/*.png` to `folder`, the same bytes for the same seed.

    The two splits share no episode. An episode yields about 25 records; in a split every button is the answer
    equally often (multiples of four episodes lose the least to that). Raises ValueError for an empty split.
    """
    if episodes < 1 or eval_episodes < 1:
        raise ValueError(f"episodes={episodes}, eval_episodes={eval_episodes}: both must be at least 1")
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    train, train_answers = _write_split(folder, "train", episodes, rng)
    held_out, eval_answers = _write_split(folder, "eval", eval_episodes, rng)
    return DatasetSummary(train=train, eval=held_out, train_answers=train_answers, eval_answers=eval_answers)
