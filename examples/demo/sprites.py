"""The little game's pictures: every tile and figure is a short list of Pillow shapes, drawn here only.

Nothing is loaded from disk or copied from a real game, so the frames can be shown and shipped freely.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw

TILE_PX = 16

SAND = (232, 205, 150)  # the road; tests recognise a road tile by this colour in its corners
GRASS = (112, 178, 84)

_BLADE = (84, 148, 66)
_LEAF, _LEAF_LIGHT, _TRUNK = (30, 92, 52), (58, 128, 66), (104, 68, 40)
_WATER, _FOAM = (64, 124, 206), (150, 196, 240)
_PRINT, _PEBBLE = (120, 78, 44), (206, 174, 118)
_RED, _SKIN, _HAIR, _BLUE, _INK = (216, 40, 48), (250, 214, 176), (70, 44, 32), (44, 70, 168), (28, 26, 40)
_PURPLE, _SILVER, _GOLD = (132, 62, 168), (226, 226, 238), (255, 210, 60)
_WOOD, _WOOD_DARK = (150, 78, 30), (92, 44, 18)
_PETAL, _BERRY = (250, 240, 246), (232, 64, 120)


class Shape(NamedTuple):
    """One Pillow primitive: `box` is (left, top, right, bottom) in pixels of a 16 x 16 tile, inclusive."""

    kind: Literal["rectangle", "ellipse"]
    box: tuple[int, int, int, int]
    fill: tuple[int, int, int]


def _rect(left: int, top: int, right: int, bottom: int, fill: tuple[int, int, int]) -> Shape:
    return Shape("rectangle", (left, top, right, bottom), fill)


def _oval(left: int, top: int, right: int, bottom: int, fill: tuple[int, int, int]) -> Shape:
    return Shape("ellipse", (left, top, right, bottom), fill)


_FULL = (0, 0, TILE_PX - 1, TILE_PX - 1)
_GRASS_GROUND = (
    Shape("rectangle", _FULL, GRASS),
    _rect(3, 4, 3, 6, _BLADE),
    _rect(11, 2, 11, 4, _BLADE),
    _rect(7, 11, 7, 13, _BLADE),
)
_ROAD_GROUND = (Shape("rectangle", _FULL, SAND), _rect(4, 11, 5, 11, _PEBBLE), _rect(11, 4, 12, 4, _PEBBLE))

_SHAPES: dict[str, tuple[Shape, ...]] = {
    "grass": _GRASS_GROUND,
    "flower": (
        *_GRASS_GROUND,
        _oval(3, 8, 7, 12, _PETAL),
        _rect(5, 10, 5, 10, _GOLD),
        _oval(9, 3, 13, 7, _PETAL),
        _rect(11, 5, 11, 5, _GOLD),
    ),
    "tree": (*_GRASS_GROUND, _rect(6, 11, 9, 15, _TRUNK), _oval(1, 0, 14, 12, _LEAF), _oval(3, 1, 9, 6, _LEAF_LIGHT)),
    "water": (Shape("rectangle", _FULL, _WATER), _rect(2, 4, 6, 4, _FOAM), _rect(9, 10, 13, 10, _FOAM)),
    "road": _ROAD_GROUND,
    # Footprints are big on purpose: they must survive the resize to about eight pixels a tile.
    "trodden": (
        *_ROAD_GROUND,
        _oval(3, 2, 6, 6, _PRINT),
        _oval(9, 4, 12, 8, _PRINT),
        _oval(3, 9, 6, 13, _PRINT),
        _oval(9, 11, 12, 14, _PRINT),
    ),
    "bush": (
        _oval(1, 3, 14, 14, _LEAF),
        _oval(3, 4, 9, 9, _LEAF_LIGHT),
        _rect(4, 9, 5, 10, _BERRY),
        _rect(10, 7, 11, 8, _BERRY),
        _rect(8, 11, 9, 12, _BERRY),
    ),
    "villager": (
        _rect(5, 13, 6, 15, _INK),
        _rect(9, 13, 10, 15, _INK),
        _rect(3, 8, 12, 13, _PURPLE),
        _oval(3, 1, 12, 9, _SKIN),
        _oval(3, 0, 12, 4, _SILVER),
        _rect(5, 5, 6, 6, _INK),
        _rect(9, 5, 10, 6, _INK),
    ),
    "chest": (
        _rect(1, 4, 14, 14, _WOOD_DARK),
        _rect(2, 5, 13, 8, _WOOD),
        _rect(2, 10, 13, 13, _WOOD),
        _rect(1, 9, 14, 9, _GOLD),
        _rect(6, 7, 9, 11, _GOLD),
    ),
    "player_down": (
        _rect(4, 13, 6, 15, _INK),
        _rect(9, 13, 11, 15, _INK),
        _rect(3, 9, 12, 13, _BLUE),
        _oval(3, 1, 12, 10, _SKIN),
        _oval(2, 0, 13, 5, _RED),
        _rect(5, 6, 6, 7, _INK),
        _rect(9, 6, 10, 7, _INK),
    ),
    "player_up": (
        _rect(4, 13, 6, 15, _INK),
        _rect(9, 13, 11, 15, _INK),
        _rect(3, 9, 12, 13, _BLUE),
        _oval(3, 1, 12, 10, _HAIR),
        _oval(2, 0, 13, 7, _RED),
    ),
    "player_left": (
        _rect(5, 13, 7, 15, _INK),
        _rect(9, 13, 11, 15, _INK),
        _rect(4, 9, 11, 13, _BLUE),
        _oval(3, 1, 12, 10, _SKIN),
        _rect(9, 4, 12, 8, _HAIR),
        _oval(3, 0, 13, 5, _RED),
        _rect(0, 4, 6, 5, _RED),
        _rect(4, 6, 5, 8, _INK),
    ),
}


@cache
def sprite(name: str) -> Image.Image:
    """Returns the 16 x 16 RGBA picture called `name`; figures are transparent around.

    Raises KeyError for a name that is not drawn here.
    """
    if name == "player_right":
        return sprite("player_left").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = Image.new("RGBA", (TILE_PX, TILE_PX))
    draw = ImageDraw.Draw(picture)
    for shape in _SHAPES[name]:
        getattr(draw, shape.kind)(shape.box, fill=shape.fill)
    return picture
