"""Versioned question sets: YAML files whose texts are templates, checked and compiled when they are read.

Promises: a `QuestionSet` that exists can be asked; the only thing that may still be missing is metadata that one media
item does not have. Errors name file, line, question, what was given and what is allowed. Knows nothing about archives,
jobs or how questions are answered.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, create_model

from omnidrop.answer_types import VideoRule, all_types, type_named
from omnidrop.errors import QuestionError
from omnidrop.questions import AnswerType, Question
from pipeline.config.job import BUILTIN_QUESTION_SETS, builtin_question_sets
from pipeline.config.sections import Section, Slug
from pipeline.config.validation_errors import explain, joined
from pipeline.config.yaml_source import FieldPath, YamlDocument, YamlError, read_yaml
from pipeline.questions.templates import (
    CLIP_FIELDS,
    MEDIA_FIELDS,
    META_NAMES,
    UNTOLD,
    Scalar,
    Told,
    compile_template,
    context_names,
    media_context,
    render,
    used_names,
)
from workers.records import Media, MediaInfo

MAX_QUESTIONS = 256
FINGERPRINT_FORMAT = 1
"""Raised when the same file would come to ask something else."""


class QuestionSetError(QuestionError):
    """A question set's file, or the variables given to it, cannot be used."""


class _Answer(Section):
    """Base of the sections of answer types; the rest of each is made from what its type declares."""

    model_config = ConfigDict(protected_namespaces=())
    type: str


class _Question(Section):
    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Name of the answers in results: up to 64 letters, digits, _, . and -.",
    )
    text: str = Field(min_length=1, description="Text of the question; may be a template.")
    answer: _Answer
    retained_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Retained ratio for this question alone, if the job's ratio is too low for it. It is asked in a "
        "separate pass.",
    )
    video: VideoRule | None = Field(
        default=None,
        description="Rule that combines the clips' answers into one answer per video (table video_answers). Changing "
        "it asks nothing again.",
    )
    scope: Literal["clip", "video"] = Field(
        default="clip",
        description="clip: ask every clip. video: ask once per video, from a text of its clips' answers.",
    )


class _File(Section):
    name: Slug = Field(description="Name of the set: up to 64 lower-case letters, digits, - and _.")
    version: str | int | float = Field(description="Label for people. It does not affect which clips are asked again.")
    instruction: str = Field(default="", description="Instruction shared by all questions; may be a template.")
    variables: dict[str, Scalar | None] = Field(
        default_factory=dict, description="Variables and their defaults; null if a job must give the value."
    )
    questions: tuple[_Question, ...] = Field(
        min_length=1, max_length=MAX_QUESTIONS, description=f"1 to {MAX_QUESTIONS} questions."
    )


@cache
def _file_of(types: tuple[type[AnswerType], ...]) -> type[_File]:
    """What a file may hold where these are the types of answers."""
    names = [one.kind for one in types]
    sections = reduce(operator.or_, map(_section_of, types))
    described = Field(discriminator="type", description=f"Type of the answer: {', '.join(names[:-1])} or {names[-1]}.")
    question = create_model("_Question", __base__=_Question, answer=(sections, described))
    listed = _File.model_fields["questions"]
    return create_model("_File", __base__=_File, questions=(tuple[question, ...], listed))  # type: ignore[valid-type]


def _section_of(answer_type: type[AnswerType]) -> type[_Answer]:
    fields: dict[str, Any] = {"type": (Literal[answer_type.kind], ...)}
    for one in answer_type.settings:
        limits: dict[str, Any] = dict(one.limits)
        # Pydantic's models have methods of their own, such as `schema`: a setting called so has another name inside.
        name = f"{one.name}_" if hasattr(Section, one.name) else one.name
        fields[name] = (one.holds, Field(one.default, alias=one.name, description=one.description, **limits))
    return create_model(f"_{answer_type.__name__}", __base__=_Answer, **fields)


_Filler = Callable[[str, str], str]
"""(where it stands, a template) -> the text."""


@dataclass(frozen=True)
class QuestionTemplate:
    """One question as written. Options of a choice may be templates, too."""

    id: str
    text: str
    answer: AnswerType
    retained_ratio: float | None = None
    video: VideoRule | None = None
    """No part of what is asked: made from answers when they are read."""

    @property
    def as_written(self) -> Question:
        """The question, its templates not filled in."""
        return Question(self.id, self.text, self.answer, self.retained_ratio)


@dataclass(frozen=True)
class QuestionSet:
    """A checked question set as written; `resolve` fills it for one media item."""

    name: str
    version: str
    instruction: str
    variables: tuple[tuple[str, Scalar | None], ...]
    """Declared variables with their defaults; None where a job must give a value."""
    questions: tuple[QuestionTemplate, ...]
    source: str
    """The file, for messages."""
    warnings: tuple[str, ...] = ()
    """What was read otherwise than it may have been meant."""
    whole: tuple[QuestionTemplate, ...] = ()
    """Questions of the whole video (`scope: video`), answered from the clips' answers: they change no clip's answer."""

    def values(self, variables: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Defaults overlaid with a job's variables. Raises QuestionSetError for unknown and for missing ones."""
        declared = dict(self.variables)
        names = ", ".join(declared) or "none"
        for name in variables:
            if name not in declared:
                close = difflib.get_close_matches(name, declared, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise QuestionSetError(f"variables.{name}: {self.source} has no such variable; {hint}it has: {names}")
        merged = {**declared, **variables}
        if missing := [name for name, value in merged.items() if value is None]:
            raise QuestionSetError(
                f"variables: {self.source} needs a value for {', '.join(missing)}; give it in the job file under "
                f"variables, or as --variable {missing[0]}=VALUE"
            )
        return {name: value for name, value in merged.items() if value is not None}

    @property
    def context_names(self) -> tuple[str, ...]:
        """What its templates read of sidecars, as `clip.transcript`; nothing, for most."""
        return context_names([self.instruction, *(t for q in self.questions for t in (q.text, *q.answer.templates))])

    def resolve(
        self, media: Media, info: MediaInfo, variables: Mapping[str, Scalar], told: Told = UNTOLD
    ) -> tuple[tuple[Question, ...], str]:
        """The questions and the shared instruction for one media item, or for one clip of it where they read of
        sidecars (`told`).

        Raises QuestionSetError for the job's variables, QuestionError where this media item lacks what a template reads
        (other media items are not affected).
        """
        filled = self._filler(media, info, variables, told)
        questions = tuple(self._resolved(template, media, filled) for template in self.questions)
        return questions, filled("instruction", self.instruction)

    def resolve_whole(self, media: Media, info: MediaInfo, variables: Mapping[str, Scalar]) -> tuple[Question, ...]:
        """The questions of the whole video. Raises as `resolve`."""
        filled = self._filler(media, info, variables, UNTOLD)
        return tuple(self._resolved(template, media, filled) for template in self.whole)

    def _filler(self, media: Media, info: MediaInfo, variables: Mapping[str, Scalar], told: Told) -> _Filler:
        context, values = media_context(media, info), self.values(variables)

        def filled(where: str, source: str) -> str:
            try:
                return render(source, context, values, told)
            except QuestionError as error:
                raise QuestionError(f"{self.source}: {where}: {error} (media item {media.key!r})") from error

        return filled

    def _resolved(self, template: QuestionTemplate, media: Media, filled: _Filler) -> Question:
        where = f"question {template.id}"
        text = filled(where, template.text)
        try:
            answer = template.answer.filled(partial(filled, where))
            return Question(template.id, text, answer, template.retained_ratio)
        except QuestionError as error:
            given = str(error)
            prefix = "" if given.startswith(self.source) else f"{self.source}: {where}, media item {media.key!r}: "
            raise QuestionError(prefix + given) from error

    def fingerprint(self, variables: Mapping[str, Scalar]) -> str:
        """32 hex digits over everything that changes a question; the name and the version label do not."""
        content = {
            "format": FINGERPRINT_FORMAT,
            "instruction": self.instruction,
            "variables": self.values(variables),
            "questions": [q.as_written.to_dict() for q in self.questions],
        }
        # Options keep their order (it decides ties); the keys of mappings do not matter.
        text = json.dumps(content, sort_keys=True, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load_question_set(path_or_builtin: str | Path) -> QuestionSet:
    """Read, check and compile a question set: a YAML file, or the name of a built-in one. Raises QuestionSetError."""
    builtin = builtin_question_sets()
    path = builtin.get(str(path_or_builtin)) or Path(path_or_builtin)
    if not path.exists():
        files = [one.name for one in path.parent.glob("*.y*ml")] if path.suffix else []
        close = difflib.get_close_matches(path.name if files else path.stem, files or builtin, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise QuestionSetError(
            f"question_set: {path} does not exist; {hint}give a YAML file or a built-in set: {', '.join(builtin)}"
        )
    try:
        document = read_yaml(path)
    except YamlError as error:
        raise QuestionSetError(str(error)) from error
    if not isinstance(document.value, dict):
        raise QuestionSetError(f"{document.where()}: a question set must be a mapping with name, version and questions")
    allowed = _file_of(all_types())
    try:
        file = allowed.model_validate(document.value)
    except ValidationError as error:
        raise QuestionSetError(joined(explain(error, allowed, document.value, document=document))) from error
    return _checked(file, document)


def _checked(file: _File, document: YamlDocument) -> QuestionSet:
    problems: list[str] = []
    remarks: list[str] = []
    for name in file.variables:
        if not name.isidentifier() or name.startswith("_"):
            problems.append(
                f"{document.where(('variables', name))}: variables.{name}: a name is a word of letters, digits and _"
            )
    problems += _template_problems(file.instruction, file.variables, document.where(("instruction",)), "instruction")
    questions: list[QuestionTemplate] = []
    whole: list[QuestionTemplate] = []
    first_at: dict[str, str] = {}
    asked_as: dict[tuple[object, ...], str] = {}
    for index, question in enumerate(file.questions):
        where = document.where(("questions", index, "id"))
        if question.id in first_at:
            problems.append(
                f"{where}: question {question.id}: the id is taken by {first_at[question.id]}; ids name the answers, "
                "so rename one"
            )
        first_at.setdefault(question.id, where)
        name = f"question {question.id}"
        text_at = document.where(("questions", index, "text"))
        problems += _template_problems(question.text, file.variables, text_at, name)
        answer_at = document.where(("questions", index, "answer"))
        try:
            answer = _answer(question.answer)
            remarks += [f"{answer_at}: {name}: {answer.remark}"] if answer.remark else []
            same = asked_as.setdefault(
                (question.scope, question.video, question.retained_ratio, " ".join(question.text.split()), answer),
                question.id,
            )
            if same != question.id:
                remarks.append(f"{text_at}: {name} asks what question {same} asks: it is answered twice")
            template = QuestionTemplate(question.id, question.text, answer, question.retained_ratio, question.video)
            (whole if question.scope == "video" else questions).append(template)
            problems += _scope_problems(question, document, index)
            if question.video is not None and question.video not in answer.video_rules:
                allowed = ", ".join(answer.video_rules) or "none: look at its answers clip by clip"
                problems.append(
                    f"{document.where(('questions', index, 'video'))}: {name}: video: {question.video} is not for "
                    f"{answer.kind} answers; allowed: {allowed}"
                )
            _ = template.as_written  # checked by being made
        except QuestionError as error:
            problems.append(f"{answer_at}: {name}: {error}")
            continue
        for option in answer.templates:
            problems += _template_problems(option, file.variables, answer_at, f"{name}, option {option!r}")
    if not questions and not problems:
        problems.append(
            f"{document.where(('questions',))}: all questions have scope: video, but a whole video is answered "
            "from its clips' answers; add a question with scope: clip"
        )
    if problems:
        raise QuestionSetError(joined(problems))
    return QuestionSet(
        name=file.name,
        version=document.written.get(("version",), str(file.version)),
        instruction=file.instruction,
        variables=tuple(file.variables.items()),
        questions=tuple(questions),
        source=_source_name(document.path),
        warnings=(*_warnings(document), *remarks),
        whole=tuple(whole),
    )


def _scope_problems(question: _Question, document: YamlDocument, index: int) -> Iterator[str]:
    """What a question of a whole video cannot have: it is answered once, from a text, when its clips are done."""
    if question.scope == "clip":
        return
    name = f"question {question.id}: scope: video"
    if question.video is not None:
        at = document.where(("questions", index, "video"))
        yield f"{at}: {name} already gives one answer per video; remove video: {question.video}, or scope"
    if question.retained_ratio is not None:
        at = document.where(("questions", index, "retained_ratio"))
        yield f"{at}: {name} is asked about a text, which is not pruned; remove retained_ratio"
    texts = (question.text, *_answer(question.answer).templates)
    for chain in context_names([text for text in texts if _is_template(text)]):
        at = document.where(("questions", index, "text"))
        yield f"{at}: {name} cannot read {chain}; it may read vars and media, but for media.meta"


def _is_template(text: str) -> bool:
    try:
        compile_template(text)
    except QuestionError:
        return False  # said of the text itself
    return True


def _warnings(document: YamlDocument) -> Iterator[str]:
    """Texts that YAML cut or changed."""
    for field, said in document.read_otherwise(_is_text):
        if _is_text(field) or field[0] == "variables":
            yield said


def _is_text(field: FieldPath) -> bool:
    return field[-1] in ("text", "instruction") or "options" in field


def _source_name(path: Path) -> str:
    return path.stem if path.parent == BUILTIN_QUESTION_SETS else str(path)


def _answer(given: _Answer) -> AnswerType:
    fields = given.model_dump(by_alias=True)
    return type_named(fields.pop("type")).from_file(fields)


def _template_problems(source: str, variables: Mapping[str, object], where: str, name: str) -> list[str]:
    try:
        compile_template(source)
    except QuestionError as error:
        return [f"{where}: {name}: {error}"]
    problems = []
    for chain in sorted(used_names(source)):
        root, field = chain[0], chain[1] if len(chain) > 1 else None
        allowed = {"vars": tuple(variables), "clip": CLIP_FIELDS}.get(root, MEDIA_FIELDS)
        if field is None or chain in (("media", "tags"), ("media", "meta")):
            problems.append(
                f"{where}: {name}: {'.'.join(chain)} is a group of values, not a text; write {'.'.join(chain)}.NAME"
            )
        elif chain[:2] == ("media", "meta") and chain[2] not in META_NAMES:
            problems.append(
                f"{where}: {name}: {'.'.join(chain)} does not exist; media.meta has: {', '.join(META_NAMES)}"
            )
        elif field not in allowed:
            close = difflib.get_close_matches(field, allowed, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            declare = "; declare it under variables" if root == "vars" else ""
            problems.append(
                f"{where}: {name}: {root}.{field} does not exist{declare}; {hint}{root} has: "
                f"{', '.join(allowed) or 'nothing'}"
            )
    return problems
