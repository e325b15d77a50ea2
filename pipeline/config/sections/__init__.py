"""The sections of a job file, one file each: what may be set, with defaults that work, units in names, and how settings
fit together.

Promises: every field says what it means (help, pages and error messages show it), and a section that exists is
consistent in itself. Knows nothing about files, options or what the settings do.
"""

from __future__ import annotations

from pipeline.config.sections.archive import ArchiveConfig
from pipeline.config.sections.audit import AuditConfig
from pipeline.config.sections.clips import ClipsConfig
from pipeline.config.sections.context import ContextConfig
from pipeline.config.sections.cost import CostConfig
from pipeline.config.sections.execution import IN_PROCESS, ExecutionConfig
from pipeline.config.sections.model import ModelConfig
from pipeline.config.sections.pruning import GONE, PruningConfig
from pipeline.config.sections.section import Scalar, Section, Slug
from pipeline.config.sections.storage import StorageConfig

__all__ = [
    "GONE",
    "IN_PROCESS",
    "ArchiveConfig",
    "AuditConfig",
    "ClipsConfig",
    "ContextConfig",
    "CostConfig",
    "ExecutionConfig",
    "ModelConfig",
    "PruningConfig",
    "Scalar",
    "Section",
    "Slug",
    "StorageConfig",
]
