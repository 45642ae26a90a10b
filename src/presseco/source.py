"""A source of articles: one YAML file that says where they are, whose they are, what to keep."""

from __future__ import annotations

import hashlib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from presseco.config import Positive, Strict
from presseco.errors import SourceError, nearest

#: Part of every collection's stamp: raise it when a stage gives other results for the same input.
_RECIPE = 1

Seconds = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


class Rights(Strict):
    """Whose the texts are, and whether they may leave the house."""

    licence: Text
    redistribute_text: bool
    attribution: str = ""


class FolderInput(Strict):
    """A folder (or one file) of .txt .md .html .json .jsonl .csv .tsv .parquet."""

    kind: Literal["folder"]
    path: Text
    columns: dict[str, str] = Field(default_factory=dict)


class FeedInput(Strict):
    """RSS or Atom feeds; the full text comes from the page that an entry links to."""

    kind: Literal["feed"]
    urls: Annotated[list[Text], Field(min_length=1)]
    contact: Text
    seconds_between_requests: Seconds = 2.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 20.0
    max_new_articles: Positive = 200
    full_text_words: Positive = 120
    cache: Text = "build/cache/feeds"


class HubInput(Strict):
    """A dataset of the Hugging Face hub by name, or a local folder that `datasets` can load."""

    kind: Literal["hub"]
    dataset: Text
    subset: str | None = None
    split: Text = "train"
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)


class Keep(Strict):
    """What an article must be; whatever is not goes to quarantine with its reason."""

    languages: Annotated[list[Text], Field(min_length=1)] = Field(default_factory=lambda: ["fr"])
    min_words: Positive = 15
    max_chars: Positive = 100_000
    business: str | None = "configs/business.yaml"
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.4


class SourceSplit(Strict):
    """How the corpus of this source is divided: held-out writers, else by `by`."""

    by: Literal["hash", "time"] = "hash"
    validation_writers: list[str] = Field(default_factory=list)
    test_writers: list[str] = Field(default_factory=list)


class Source(Strict):
    """One source, complete; paths are relative to the project folder."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    rights: Rights
    input: Annotated[FolderInput | FeedInput | HubInput, Field(discriminator="kind")]
    keep: Keep = Keep()
    split: SourceSplit = SourceSplit()
    labels: str | None = None
    labelling: str | None = None
    output: str | None = None

    @property
    def folder(self) -> str:
        """Return where the collection, the ledger and the articles are written."""
        return self.output or f"build/sources/{self.name}"

    def online(self, root: Path) -> bool:
        """Tell whether reading needs the network: a feed, or a dataset that is no local folder."""
        if isinstance(self.input, HubInput):
            return not (root / self.input.dataset).exists()
        return isinstance(self.input, FeedInput)

    def stamp(self, *inputs: Path) -> str:
        """Digest what decides an article's fate: input, keep and the files these name.

        Rights, labels and split are not part: changing them re-reads nothing.
        """
        h = hashlib.sha256(f"{_RECIPE}{self.name}".encode())
        h.update(self.input.model_dump_json().encode() + self.keep.model_dump_json().encode())
        for path in inputs:
            h.update(path.read_bytes())
        return h.hexdigest()[:16]


def read_source(path: str | Path) -> Source:
    """Read a source file; raise `SourceError` naming the key, what was found, what is allowed."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise SourceError(f"{path}: cannot be read: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise SourceError(f"{path}: not valid YAML: {e}") from None
    if not isinstance(data, dict):
        raise SourceError(f"{path}: expected keys and values, found {type(data).__name__}")
    try:
        return Source.model_validate(data)
    except ValidationError as e:
        raise SourceError("\n".join(_explain(str(path), err) for err in e.errors())) from None


def _explain(where: str, error: Any) -> str:
    loc = [str(p) for p in error["loc"]]
    # pydantic puts the chosen kind of a union between the key and what is below it.
    key = ".".join(
        p for i, p in enumerate(loc) if not (i and loc[i - 1] == "input" and p in _KINDS)
    )
    if error["type"] == "extra_forbidden":
        allowed = _allowed(loc[:-1])
        return f"{where}: unknown key {key!r}{nearest(loc[-1], allowed)}. Allowed: {allowed}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    if error["type"].startswith("union_tag"):
        return f"{where}: {key}.kind must be one of {', '.join(_KINDS)}"
    return f"{where}: {key} is {error['input']!r}: {error['msg'].lower()}"


_KINDS: dict[str, type[Strict]] = {"folder": FolderInput, "feed": FeedInput, "hub": HubInput}


def _allowed(sections: list[str]) -> list[str]:
    model: Any = Source
    for name in sections:
        found = _KINDS.get(name) or model.model_fields[name].annotation
        # `input` is a union: the kind that follows it in the location decides.
        model = model if typing.get_origin(found) else found
    return list(model.model_fields)
