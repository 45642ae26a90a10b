"""Which sources label, from `configs/labelling.yaml`: typed, and the sources that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from presseco.companies import read_companies
from presseco.config import Positive, Share, Strict
from presseco.errors import ConfigError, SourceError, nearest
from presseco.imported import read_annotations
from presseco.llm import Endpoint, LanguageModel, key_of
from presseco.patterns import read_patterns
from presseco.source import Seconds, Text
from presseco.taxonomy import Taxonomy
from presseco.vote import Labeller


class SimilarConfig(Strict):
    """Nearest seeds by the encoder's vectors."""

    encoder: Text
    seeds: Text
    tasks: Annotated[list[Text], Field(min_length=1)]
    neighbours: Positive
    least_cosine: Share
    max_tokens: Annotated[int, Field(ge=8, le=510)]


class LlmConfig(Strict):
    """A language model behind an OpenAI-compatible endpoint; absent: nothing is asked."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    model: Text
    key_variable: Text = "PRESSECO_LLM_KEY"
    cache: Text = "build/cache/llm"
    confidence: Share = 0.9
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0, le=10)] = 4
    pause_seconds: Seconds = 1.0
    send_protected_texts: bool = False


class Labelling(Strict):
    """The sources, null where not wanted, and from which confidence on a label is given."""

    patterns: str | None
    companies: str | None
    similar: SimilarConfig | None
    llm: LlmConfig | None
    annotations: list[Text]
    least_confidence: dict[str, Share]


def read_labelling(path: str | Path) -> Labelling:
    """Read a labelling file; raise `ConfigError` naming the key and what is allowed."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}")
    try:
        return Labelling.model_validate(data)
    except ValidationError as e:
        raise ConfigError("\n".join(_explain(str(path), err) for err in e.errors())) from None


def labellers(
    settings: Labelling,
    root: Path,
    taxonomy: Taxonomy,
    *,
    online: bool = False,
    may_leave: bool = True,
) -> list[Labeller]:
    """Return the sources that the file names, ready to vote; paths start from `root`.

    A language model on another machine needs `online`, a key, and texts that `may_leave`.
    """
    if odd := set(settings.least_confidence) ^ set(taxonomy.names):
        raise ConfigError(
            f"least_confidence: {sorted(odd)}; expected a number for {taxonomy.names}"
        )
    found: list[Labeller] = []
    if settings.patterns:
        found.append(read_patterns(root / settings.patterns, taxonomy))
    if settings.companies:
        found.append(read_companies(root / settings.companies, taxonomy))
    if settings.similar:
        found.append(_similar(settings.similar, root, taxonomy))
    if settings.llm:
        found.append(_llm(settings.llm, root, taxonomy, online, may_leave))
    found += read_annotations([root / a for a in settings.annotations], taxonomy)
    if not found:
        raise ConfigError("labelling: no source is named; see configs/labelling.yaml")
    return found


def _similar(settings: SimilarConfig, root: Path, taxonomy: Taxonomy) -> Labeller:
    from presseco.encoder import locate
    from presseco.similar import Similar, guideline_seeds

    if odd := set(settings.tasks) - set(taxonomy.names):
        raise ConfigError(f"similar.tasks: {sorted(odd)}; the taxonomy has {taxonomy.names}")
    return Similar(
        guideline_seeds(root / settings.seeds, taxonomy),
        taxonomy,
        locate(settings.encoder, root),
        tuple(settings.tasks),
        settings.neighbours,
        settings.least_cosine,
        settings.max_tokens,
    )


def _llm(
    settings: LlmConfig, root: Path, taxonomy: Taxonomy, online: bool, may_leave: bool
) -> Labeller:
    endpoint = Endpoint(
        settings.url,
        settings.model,
        settings.key_variable,
        settings.timeout_seconds,
        settings.retries,
        settings.pause_seconds,
    )
    if not endpoint.is_local and not online:
        raise SourceError(f"llm: {settings.url} is on the network; say so with --online (ONLINE=1)")
    if not endpoint.is_local and not may_leave and not settings.send_protected_texts:
        raise SourceError(
            f"llm: the source's texts may not be redistributed, and {settings.url} is another "
            "machine. If your contract allows it, set llm.send_protected_texts: true."
        )
    key_of(endpoint)  # a missing key is told before an hour of other work
    return LanguageModel(endpoint, taxonomy, root / settings.cache, settings.confidence)


def _explain(where: str, error: Any) -> str:
    loc = [str(p) for p in error["loc"]]
    key = ".".join(loc)
    if error["type"] == "extra_forbidden":
        sections: dict[str, type[Strict]] = {"similar": SimilarConfig, "llm": LlmConfig}
        allowed = list((sections[loc[0]] if len(loc) > 1 else Labelling).model_fields)
        return f"{where}: unknown key {key!r}{nearest(loc[-1], allowed)}. Allowed: {allowed}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    return f"{where}: {key} is {error['input']!r}: {error['msg'].lower()}"


def names(sources: Sequence[Labeller]) -> list[str]:
    """Return the sources' names; refuse one used twice."""
    found = [s.name for s in sources]
    if len(set(found)) < len(found):
        raise ConfigError(f"labelling: two sources have one name: {sorted(found)}")
    return found
