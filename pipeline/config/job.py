"""The job file: one frozen object made from YAML, command-line options and Python alike, checked once.

Promises: a `JobConfig` that exists is consistent, holds no credential, and has its local paths made absolute; every
refusal names the field, its place in the file, what was given and what is allowed. Knows nothing about what an archive
contains, how a question set is read, or how a job runs.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from omnidrop.errors import UserError
from pipeline.config.locations import Location, SecretFreeError, is_s3, secret_in_query, sqlite_url, user_part
from pipeline.config.sections import (
    ArchiveConfig,
    AuditConfig,
    ClipsConfig,
    ContextConfig,
    CostConfig,
    ExecutionConfig,
    ModelConfig,
    PruningConfig,
    Scalar,
    Section,
    Slug,
    StorageConfig,
)
from pipeline.config.validation_errors import explain, joined
from pipeline.config.yaml_source import FieldPath, YamlDocument, YamlError, read_yaml

__all__ = [
    "ArchiveConfig",
    "AuditConfig",
    "ClipsConfig",
    "ContextConfig",
    "CostConfig",
    "ExecutionConfig",
    "JobConfig",
    "JobError",
    "ModelConfig",
    "PruningConfig",
    "StorageConfig",
    "builtin_question_sets",
    "load_job",
    "make_job",
]

log = logging.getLogger(__name__)

BUILTIN_QUESTION_SETS = Path(__file__).parents[1] / "questions" / "builtin"
_OWN_WORDS = ("variables", "archive", "output", "question_set", "context")
"""Parts of a job file whose texts people choose, so that a # may be part of them."""
MAY_BE_REFERRED_TO = ("OMNIDROP_", "PG")
"""How environment variables begin that `index_url` may hold."""
ENVIRONMENT_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class JobError(UserError):
    """A job file, an option or a setting cannot be used as given."""


class JobConfig(Section):
    """One archive job: ask a question set of every clip of an archive."""

    name: Slug = Field(description="Name of the job: up to 64 lower-case letters, digits, - and _.")
    archive: ArchiveConfig
    output: Location = Field(description="Folder or s3://bucket/prefix for the results.")
    question_set: str = Field(
        min_length=1, description="Question set: a YAML file, or the name of a built-in one such as toy-world."
    )
    variables: dict[str, Scalar] = Field(
        default_factory=dict,
        description="Values of the question set's variables, as NAME=VALUE.",
        json_schema_extra={"option": "--variable"},
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    pruning: PruningConfig = Field(default_factory=PruningConfig)
    clips: ClipsConfig = Field(default_factory=ClipsConfig)
    context: ContextConfig = Field(default_factory=ContextConfig)
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    index_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of the savings index. A password may only be given by reference, for example "
        "${OMNIDROP_INDEX_URL}. Default: an SQLite file in the output folder.",
    )
    storage: StorageConfig = Field(default_factory=StorageConfig)

    @field_validator("variables")
    @classmethod
    def _variable_names(cls, variables: dict[str, Scalar]) -> dict[str, Scalar]:
        for name in variables:
            if not name.isidentifier() or name.startswith("_"):
                raise ValueError(f"the variable name {name!r} is not valid; use letters, digits and _")
        return variables

    @field_validator("index_url")
    @classmethod
    def _no_password(cls, url: str | None) -> str | None:
        if url is None or ENVIRONMENT_REFERENCE.fullmatch(url):
            return url
        if "://" not in url:
            raise SecretFreeError("must be a SQLAlchemy URL such as postgresql+psycopg://user@host/database")
        password = (user_part(url) or "").partition(":")[2] if not url.startswith("sqlite") else ""
        if (password and not ENVIRONMENT_REFERENCE.fullmatch(password)) or secret_in_query(url):
            raise SecretFreeError(
                "the address contains a password, and job files are stored with results; use ${OMNIDROP_INDEX_URL} and "
                "set that environment variable, or remove the password and set PGPASSWORD"
            )
        return url

    @model_validator(mode="after")
    def _results_beside_media(self) -> Self:
        if self.output == self.archive.uri:
            raise ValueError("output and archive.uri are the same place; choose another folder for the results")
        for part in ("journal", "tables"):
            if f"{self.archive.uri}/".startswith(f"{self.output}/{part}/"):
                raise ValueError(f"archive.uri lies in the {part} of output; choose another folder for the results")
        return self

    @model_validator(mode="after")
    def _card_needs_less_confinement(self) -> Self:
        if self.clips.decoder == "nvdec" and self.execution.confinement == "landlock+seccomp":
            raise ValueError(
                "clips.decoder: nvdec cannot run under execution.confinement: landlock+seccomp, because a card's "
                "driver needs calls that seccomp refuses; use decoder: cpu, or accept less with confinement: auto"
            )
        return self

    def resolved_index_url(self, environ: Mapping[str, str] = os.environ) -> str:
        """The index's URL with `${NAME}` replaced from the environment. It may hold a password: never log or store it.

        Raises JobError where a variable is not set, or where there is no URL and the output is not a local folder.
        """
        if self.index_url is None:
            if is_s3(self.output):
                raise JobError(
                    f"index_url: the output {self.output} is not a local folder, and SQLite cannot live in S3; give "
                    "index_url, as in postgresql+psycopg://user@host/database or sqlite:////var/lib/omnidrop/index.sqlite"
                )
            return sqlite_url(f"{self.output}/index.sqlite")

        allowed = environ.get("OMNIDROP_INDEX_URL_VARIABLES", "").replace(" ", "").split(",")

        def value(match: re.Match[str]) -> str:
            if not match[1].startswith(MAY_BE_REFERRED_TO) and match[1] not in allowed:
                # A third party's job file could send the variable to a host of its choice.
                raise JobError(
                    f"index_url: {self.index_url} refers to {match[1]}; only variables that begin with "
                    f"{' or '.join(MAY_BE_REFERRED_TO)} are taken, and those that OMNIDROP_INDEX_URL_VARIABLES names "
                    "(in the environment, separated by commas)"
                )
            if not (found := environ.get(match[1])):
                raise JobError(f"index_url: {self.index_url} refers to {match[1]}, which is not set in the environment")
            return found

        return ENVIRONMENT_REFERENCE.sub(value, self.index_url)


def load_job(path: str | Path, overrides: Mapping[str, object] | None = None) -> JobConfig:
    """Read a job file and lay `overrides` over it.

    `overrides` maps dotted field names to values, as in `{"clips.length_s": 10}`. Local paths in the file are relative
    to the file's folder, local paths in `overrides` to the working folder. What the file may mean otherwise than YAML
    reads it is logged as a warning. Raises JobError.
    """
    path = Path(path)
    try:
        document = read_yaml(path)
    except YamlError as error:
        raise JobError(str(error)) from error
    if not isinstance(document.value, dict):
        raise JobError(f"{document.where()}: a job file must be a mapping of fields such as `name:` and `archive:`")
    given = _with_absolute_paths(document.value, path.absolute().parent)
    overridden: set[FieldPath] = set()
    for name, value in (overrides or {}).items():
        field = tuple(name.split("."))
        overridden.add(field)
        _lay_over(given, field, value)
    job = _validate(given, document=document, overridden=overridden)
    for place, said in document.read_otherwise():
        is_own_words = place[0] in _OWN_WORDS or place == ("model", "system_prompt")
        if is_own_words and not any(place[: len(other)] == other for other in overridden):
            log.warning(said)
    return job


def make_job(given: Mapping[str, Any]) -> JobConfig:
    """A job from plain values, as Python callers write it; local paths are relative to the working folder."""
    return _validate(_with_absolute_paths(given, Path.cwd()), document=None, overridden=set())


def builtin_question_sets() -> dict[str, Path]:
    """Names and files of the question sets that come with the package."""
    return {file.stem: file for file in sorted(BUILTIN_QUESTION_SETS.glob("*.yaml"))}


def _lay_over(given: dict[str, Any], field: FieldPath, value: object) -> None:
    section = given
    for part in field[:-1]:
        inner = section.get(str(part))
        section[str(part)] = dict(inner) if isinstance(inner, Mapping) else {}
        section = section[str(part)]
    section[str(field[-1])] = value
    section.update(_with_absolute_paths({field[-1]: value}, Path.cwd(), prefix=field[:-1]))


def _with_absolute_paths(given: Mapping[Any, Any], folder: Path, prefix: FieldPath = ()) -> dict[str, Any]:
    """A copy in which relative local paths start at `folder`. Values of a wrong type are left for the validation."""
    result = dict(given)
    for name, value in given.items():
        field = (*prefix, name)
        if field in (("archive",), ("model",)) and isinstance(value, Mapping):
            result[name] = _with_absolute_paths(value, folder, field)
        elif not isinstance(value, str) or not value.strip():
            continue
        elif (field in (("archive", "uri"), ("output",)) and "://" not in value) or (
            field == ("question_set",) and value not in builtin_question_sets()
        ):
            result[name] = _absolute(value, folder)
        elif field == ("model", "path") and value.startswith(("./", "../", "~", "/")):
            # Anything else may be a hub id such as Qwen/Qwen2.5-Omni-3B, which looks like a relative path.
            result[name] = _absolute(value, folder)
    return result


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder / os.path.expanduser(path))


def _validate(given: Mapping[str, Any], *, document: YamlDocument | None, overridden: Iterable[FieldPath]) -> JobConfig:
    try:
        return JobConfig.model_validate(given)
    except ValidationError as error:
        message = joined(explain(error, JobConfig, given, document=document, overridden=overridden))
    # Raised outside the handler: pydantic's own error repeats what was given, which may be a secret.
    raise JobError(message)
