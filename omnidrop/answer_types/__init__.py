"""The types of answers, one file each: what may be answered, how it is read, written down and stored."""

from omnidrop.answer_types.base import AnswerType, Scored, Setting, Unreadable, VideoRule, Written, normalised
from omnidrop.answer_types.boolean import Boolean
from omnidrop.answer_types.choice import Choice
from omnidrop.answer_types.json_object import Json
from omnidrop.answer_types.number import Number
from omnidrop.answer_types.registry import all_types, column_of, kinds, registered, type_named
from omnidrop.answer_types.text import Text

__all__ = [
    "AnswerType",
    "Boolean",
    "Choice",
    "Json",
    "Number",
    "Scored",
    "Setting",
    "Text",
    "Unreadable",
    "VideoRule",
    "Written",
    "all_types",
    "column_of",
    "kinds",
    "normalised",
    "registered",
    "type_named",
]
