"""The text that the tiny model's byte-pair merges are learned from, written for this purpose.

The demo's own words and answers, JSON, headings, drawing characters, and enough plain English that a long prompt of
someone else's comes out at about two characters a token. The order and the content decide the token ids.
"""

from __future__ import annotations

CORPUS = """
Follow the road to the chest. Which button is next? {"button": "up"} {"button": "down"} {"button": "left"}
{"button": "right"} {"button": "a"} {"button": "b"} {"button": "start"} {"button": "select"}
```json {"name": "value", "reason": "because", "description": "text", "score": 0.9, "done": true, "error": null,
"items": [1, 2, 3], "index": 10, "total": 25, "date": "2024-01-31", "price": "19.95"} ```
**Goal:** **Context:** **Steps:** **Format:** **Actions:** **GOAL:** **CONTEXT:** **STEPS:** **JSON:** **NEXT:**
1. First 2. Second 3. Third - Place: - Time: - Level: high, low, medium
┌────┬────┐ │ t=0 │ t=1 │ ├────┼────┤ │ t=2 │ t=3 │ └────┴────┘ ════════ ──────── → ← ↑ ↓ • — … ✓ 🎮
This is a grid of four consecutive frames of a game, from the first moment at the top left to the last at
the bottom right. You are the player. You see the screen and you decide which button to press. Look at the
sequence of frames, find the pattern of movement, the interaction or the change of state, and say what
should be done next. Explain your choice in one short sentence and describe the scene with its location,
the people in it, the ground, the buildings, the menu and the dialogue. The game shows a map with grass,
trees, water, a road, a village, a house, a door, a cave, a wall, a bridge, flowers, bushes and a chest.
Walk to the goal, talk to the villager, open the chest, cut the bush, enter the house, win the game and
explore the world. When there is something in front of you, press a. When nothing is in the way, go on in
the direction of the road. Good players have a strong memory, some knowledge of strategy and navigation,
and a sense for exploration, interaction, observation and careful management. What was the result of the
action? The player moved up, moved down, moved left, moved right, stood still, or opened a menu. Answer
only with JSON. Use the image and the question. The answer must be one of the available actions. Before
each step, observe, think and plan. There are many ways to get there, but only some of them are short;
some would not work at all. Could they have been where we were? She said that he will come back after his
work, then they can all begin again. People made these things with their own hands over a long time. Time
is about now; first, second, third, next, last, then, than, into, over, under, between, against, because,
while, during, without, through, another, other, every, more, most, such. What color is the car? How many
people can be seen in this picture? Describe the image in detail. Read the text on the sign. The document
shows a table with names, dates, numbers and totals. Extract the fields as JSON and give the value of each
key. The left hand side is higher than the right; the difference is small, so the small sample cannot tell
them apart.
The quick answer is not always the best one: read the instructions carefully, check the information you
were given, and return the required output in the requested format. If an option is missing, invalid or
unknown, report which one and continue with the others. A typical example contains several sections, each
of them with a title, a list of possible values and a recommended default. Note that the current position,
the previous position and the final position may be different. Important details are often hidden in the
background, near the border or behind another object. Possible reasons include distance, lighting, motion,
weather and a wrong estimate. The company, the government, the university and the hospital published their
annual statements today, while children were playing outside. IMPORTANT: THE ANSWER MUST CONTAIN ALL OF
THE FIELDS. NOTE: USE ONLY LOWER CASE LETTERS FOR THE NAMES. AVAILABLE OPTIONS ARE LISTED BELOW. def
main(argument): return value # comment <div class="text">https://www.example.com/index.html?page=2</div>
Which
user
model
system
button
up
down
left
right
start
select
"""
