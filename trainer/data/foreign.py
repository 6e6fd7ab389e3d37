"""Recognises records of services and tools that have other forms: requests and answers of batch files, Gemini's
contents, and the files of VQA, COCO, LabelMe and Label Studio."""

from __future__ import annotations

from typing import Any

from trainer.data.names import is_quiet, kind_of_name
from trainer.data.turns import FormError, role_of

PREFERENCES = ("preferred_output", "non_preferred_output")  # of OpenAI
# The keys of a batch file's lines, at OpenAI and at Anthropic.
ID, REQUESTS, RESULTS = "custom_id", ("body", "params"), ("response", "result")
# Records of data sets whose other half stands in another file: (sets of keys, of each of which such a record has one;
# its other keys; what to say of it).
HALVES: tuple[tuple[tuple[set[str], ...], set[str], str], ...] = (
    (
        ({"question"}, {"question_id"}, {"image_id"}),
        {"question_type"},
        " is a question of VQA's form, whose answer is in the file of annotations: write records with image, question "
        "and output, joining both files by question_id",
    ),
    (
        ({"question_id"}, {"multiple_choice_answer", "answers"}),
        {"question_type", "answer_type", "confidence"},
        " is an answer of VQA's form, whose question is in the file of questions: write records with image, question "
        "and output (the multiple_choice_answer), joining both files by question_id",
    ),
    (
        ({"image_id"}, {"category_id"}, {"score"}),
        {"segmentation", "keypoints", "area", "iscrowd"},
        " is a detection in COCO's form of results, which names its picture and category by numbers alone: name the "
        "file of images and annotations",
    ),
)
OF_RESULT = {"body", "status_code", "type"}


def unwrapped(entry: dict[str, Any]) -> dict[str, Any]:
    """The request in a line of a batch file, where it holds an answer to learn; any other record as it is."""
    if (key := _inside(entry, REQUESTS)) is None or not _answers(entry[key].get("messages")):
        return entry
    return {**{name: value for name, value in entry.items() if name != key}, **entry[key]}


def fault(entry: dict[str, Any]) -> FormError | None:
    """What a record of a known service is, and what helps; None for any other record."""
    if _inside(entry, REQUESTS):
        return FormError(
            " is a request of a batch file, and its answer is in the batch's output: add the answer to its messages, "
            "as a turn of role assistant"
        )
    if entry.keys() >= {*PREFERENCES}:
        return FormError(
            " is a pair of answers in OpenAI's form, and none is compared: to learn the preferred one, write the "
            "messages of its input and its preferred_output as one list under messages"
        )
    if (key := _inside(entry, RESULTS)) and entry[key].keys() & OF_RESULT:
        return FormError(
            " is an answer of a batch, and its question is in the batch's input: add the answer to the messages "
            "with the same custom_id there, as a turn of role assistant"
        )
    for groups, others, said in HALVES:
        if all(entry.keys() & group for group in groups) and _has_only(entry, others.union(*groups)):
            return FormError(said)
    if is_labelme(entry):
        return FormError(
            " is of LabelMe's form, the shapes in one picture, which are not shown: write a record with imagePath as "
            "image, a question, and the labels as output"
        )
    if entry.keys() >= {"data", "annotations"}:
        return FormError(" is of Label Studio's JSON: export it as JSON-MIN, which has one record for each picture")
    if is_gemini(entry):
        return FormError(
            " has Gemini's form (contents with parts): write messages for contents, content for parts, assistant for "
            'model, and a picture as {"type": "image", "image": PATH}'
        )
    return None


def coco(entry: dict[str, Any]) -> list[dict[str, Any]] | None:
    """A record for each annotation of a file in COCO's form, with its picture and the name of its category; None for
    any other object."""
    pictures, notes, kinds = (entry.get(name, []) for name in ("images", "annotations", "categories"))
    lists = [each for each in (pictures, notes, kinds) if isinstance(each, list)]
    if len(lists) < 3 or not all(isinstance(one, dict) for each in lists for one in each):
        return None
    if not pictures or not notes or not all("file_name" in one for one in pictures):
        return None
    names = {str(one.get("id")): one["file_name"] for one in pictures}
    words = {str(one.get("id")): one.get("name") for one in kinds}
    return [
        {
            "image": names.get(str(one.get("image_id")), str(one.get("image_id"))),
            **{name: value for name, value in one.items() if name not in ("image_id", "category_id")},
            **({"category": words[str(one["category_id"])]} if str(one.get("category_id")) in words else {}),
        }
        for one in notes
    ]


def is_labelme(entry: dict[str, Any]) -> bool:
    """Whether it is a file of LabelMe, which describes one picture."""
    return entry.keys() >= {"shapes", "imagePath"}


def is_gemini(entry: dict[str, Any]) -> bool:
    """Whether it is a request of Gemini, also as a line of a batch file."""
    asked = entry.get("request")
    turns = (asked if isinstance(asked, dict) else entry).get("contents")
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) and "parts" in turn for turn in turns)


def _has_only(entry: dict[str, Any], own: set[str]) -> bool:
    """Whether the record has nothing to learn beside the keys of its form: any other key may hold the text that the
    form has in another file."""
    return all(name in own or is_quiet(name) or kind_of_name(name) for name in entry)


def _inside(entry: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """The key of `keys` under which a line of a batch file has an object; None for any other record."""
    return next((key for key in keys if isinstance(entry.get(key), dict)), None) if ID in entry else None


def _answers(turns: Any) -> bool:
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and role_of(turn.get("role")) == "assistant" for turn in turns
    )
