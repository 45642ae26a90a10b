"""The questions and their labels, read from `configs/taxonomy.yaml` or a user's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from presseco.errors import TaxonomyError, nearest

#: Value of a label that is missing; `torch.nn.CrossEntropyLoss` ignores it by default.
MISSING = -100
#: Label of a text that is no business news at all: training pulls its answers towards uniform.
OUTSIDE = -200

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Borderline(_Strict):
    """A text that could be taken for another label, and why it is this one."""

    text: str
    why: str


class Label(_Strict):
    """One answer: identifier, French name, definitions, examples, and codes of other schemes."""

    id: Identifier
    display: str
    definition_fr: str
    definition_en: str
    examples: tuple[str, ...] = ()
    borderline: Borderline | None = None
    crosswalk: dict[str, list[str]] = Field(default_factory=dict)


class TaskDefinition(_Strict):
    """One question, with its labels in the order of the model's logits."""

    name: Identifier
    question_fr: str
    question_en: str
    rules_en: str = ""
    labels: Annotated[tuple[Label, ...], Field(min_length=2)]

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the label identifiers in order."""
        return tuple(label.id for label in self.labels)


class Taxonomy(_Strict):
    """All tasks of one guideline version."""

    version: str
    tasks: Annotated[tuple[TaskDefinition, ...], Field(min_length=1)]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the task names in order."""
        return tuple(t.name for t in self.tasks)

    @property
    def task_map(self) -> list[list[Any]]:
        """Return `[[task, [label, ...]], ...]`: a list, since config.json sorts a dict's keys."""
        return [[t.name, list(t.ids)] for t in self.tasks]

    def __getitem__(self, task: str) -> TaskDefinition:
        for t in self.tasks:
            if t.name == task:
                return t
        raise TaxonomyError(f"no task {task!r}{nearest(task, self.names)}; tasks: {self.names}")

    def check(self, task: str, label: str, where: str) -> str:
        """Return `label` if it is valid for `task`; raise with `where` and the nearest label."""
        ids = self[task].ids
        if label not in ids:
            raise TaxonomyError(
                f"{where}: {task} is {label!r}, which is no label{nearest(label, ids)}. "
                f"Labels: {', '.join(ids)}."
            )
        return label

    def index(self, task: str, label: str | None) -> int:
        """Return the label's position, or `MISSING` for None."""
        return MISSING if label is None else self[task].ids.index(label)


@dataclass(frozen=True)
class Slice:
    """Where a task's logits stand in the flat vector."""

    name: str
    start: int
    stop: int


def slices(task_map: list[list[Any]]) -> list[Slice]:
    """Return each task's place in the flat logits of a `task_map`."""
    out, start = [], 0
    for name, labels in task_map:
        out.append(Slice(name, start, start + len(labels)))
        start += len(labels)
    return out


def read_taxonomy(path: str | Path) -> Taxonomy:
    """Read and validate a taxonomy file; raise `TaxonomyError` naming the entry that is wrong."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        taxonomy = Taxonomy.model_validate(data)
    except OSError as e:
        raise TaxonomyError(f"{path}: cannot be read: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise TaxonomyError(f"{path}: not valid YAML: {e}") from None
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise TaxonomyError(
            f"{path}: {where}: {first['msg']} (found {first['input']!r:.80})"
        ) from None
    _refuse_repeats(path, "task", taxonomy.names)
    for task in taxonomy.tasks:
        _refuse_repeats(path, f"label of {task.name}", task.ids)
    return taxonomy


def _refuse_repeats(path: str | Path, what: str, names: tuple[str, ...]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise TaxonomyError(f"{path}: {what} defined twice: {', '.join(twice)}")
