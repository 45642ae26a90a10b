"""Typed configuration: `configs/base.yaml` and the differences that an experiment file holds."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from presseco.errors import ConfigError, nearest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Span = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """Settings that refuse an unknown key and a value of another type, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CorpusConfig(Strict):
    """Where articles come from and how they are split."""

    articles: list[str]
    seeds: str | None
    taxonomy: str
    output: str
    validation_writers: list[str]
    test_writers: list[str]
    split_by: Literal["hash", "time"]
    near_duplicate: Share | None
    max_chars: Positive
    min_words: Positive


class TrackingConfig(Strict):
    """MLflow experiment name, and whether the models go to the registry."""

    experiment: str
    register_models: bool = Field(alias="register")


class BaselineConfig(Strict):
    """TF-IDF views and the regularisation strengths tried on validation."""

    word_ngrams: Span
    char_ngrams: Span
    max_features: Positive
    c_grid: list[Annotated[float, Field(gt=0)]]


class FrozenConfig(Strict):
    """Logistic regression on the encoder's vectors: strengths tried on validation."""

    c_grid: list[Annotated[float, Field(gt=0)]]


class CamembertConfig(Strict):
    """Fine-tuning; each field is explained in configs/base.yaml."""

    encoder: str
    max_tokens: Annotated[int, Field(ge=8, le=8192)]
    frozen_layers: Annotated[int, Field(ge=0)]
    epochs: Positive
    patience: Positive
    batch_size: Positive
    learning_rate: Rate
    head_learning_rate: Rate
    layer_decay: Rate
    weight_decay: Share
    warmup: Share
    label_smoothing: Share
    class_balance: Share
    outside_weight: Annotated[float, Field(ge=0)]
    dropout: Share
    token_dropout: Annotated[float, Field(ge=0, lt=1)]
    average: Annotated[float, Field(ge=0, lt=1)]
    probe_head: bool
    word_logits: bool
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_seconds: Annotated[float, Field(ge=0)]


class DistilConfig(Strict):
    """A larger fine-tuned model to learn from (docs/model.md); weights are beside the labels' 1."""

    teacher: str
    texts: str | None = None
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    hidden_weight: Annotated[float, Field(ge=0)] = 0.1


class PromoteConfig(Strict):
    """Limits of the registry's gate, beside "worse on no task, better on one"."""

    max_ece: Share
    max_megabytes: Positive
    min_docs_per_second: Annotated[float, Field(ge=0)]
    min_invariance: Share


class Config(Strict):
    """One experiment, complete. `root` is the project folder that relative paths start from."""

    name: str
    kind: Literal["baseline", "frozen", "camembert"]
    seed: Annotated[int, Field(ge=0)]
    corpus: CorpusConfig
    tracking: TrackingConfig
    baseline: BaselineConfig
    frozen: FrozenConfig
    camembert: CamembertConfig
    distil: DistilConfig | None = None
    promote: PromoteConfig
    root: Path = Field(default=Path(), exclude=True, strict=False)

    def path(self, relative: str) -> Path:
        """Return `relative` as a path from the project folder."""
        return self.root / relative

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that `read_config` would accept."""
        data = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def read_config(experiment: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read an experiment file over its `../base.yaml`, then `key.sub=value` overrides.

    Raises `ConfigError` naming the key, what was found and what is allowed.
    """
    experiment = Path(experiment)
    if not experiment.is_file():
        raise ConfigError(f"{experiment}: cannot be read: no such file; see configs/experiment/")
    base = experiment.resolve().parent.parent / "base.yaml"
    data = _merge(_read(base), _read(experiment), str(experiment))
    for item in overrides:
        key, sep, value = item.partition("=")
        if not sep:
            raise ConfigError(f"--set {item}: expected key=value, such as camembert.epochs=2")
        change = _value(value, item)
        for part in reversed(key.split(".")):
            change = {part: change}
        data = _merge(data, change, f"--set {item}")
    root = base.parent.parent
    try:
        return Config.model_validate({**data, "root": root})
    except ValidationError as e:
        found = e.errors()
        told = [_explain(_source(err, experiment, overrides), err) for err in found]
        raise ConfigError("\n".join(told)) from None


def differences(config: Config) -> dict[str, Any]:
    """Return what differs from `configs/base.yaml` as flat `section.key: value` pairs."""
    base = _read(config.root / "configs" / "base.yaml")
    ours = config.model_dump(mode="json", by_alias=True)
    flat_base, flat = _flatten(base), _flatten(ours)
    return {k: v for k, v in flat.items() if flat_base.get(k) != v and k != "name"}


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def _value(text: str, item: str) -> Any:
    # YAML 1.1 reads 3e-4 as a word, for want of a point.
    if re.fullmatch(r"[+-]?\d+e[+-]?\d+", text.strip(), re.IGNORECASE):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {item}: {text!r} is not valid YAML") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; raise `ConfigError` when it cannot be read or is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {e}") from None


def _read(path: Path) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data


def _merge(base: dict[str, Any], change: dict[str, Any], where: str) -> dict[str, Any]:
    out = dict(base)
    for key, value in change.items():
        if isinstance(base.get(key), dict):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{where}: {key} is {value!r}; expected keys: {', '.join(base[key])}"
                )
            out[key] = _merge(base[key], value, where)
        else:
            out[key] = value
    return out


def _source(error: Any, experiment: Path, overrides: typing.Sequence[str]) -> str:
    """Return what brought the faulty key in: the last override that sets it, else the file."""
    loc = [str(p) for p in error["loc"]]
    for item in reversed(overrides):
        words = item.partition("=")[0].split(".")
        if words[: len(loc)] == loc[: len(words)]:
            return f"--set {item}"
    return str(experiment)


def _explain(where: str, error: Any) -> str:
    loc = [p for p in error["loc"] if isinstance(p, str)]
    key = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = _allowed(loc[:-1])
        return f"{where}: unknown key {key!r}{nearest(loc[-1], allowed)}. Allowed: {allowed}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing, in the file and in base.yaml"
    return f"{where}: {key} is {error['input']!r}: {error['msg'].lower()}"


def _allowed(sections: list[str]) -> list[str]:
    model: Any = Config
    for name in sections:
        field = model.model_fields.get(name)
        model = field.annotation if field else Config
        if isinstance(model, types.UnionType):
            model = typing.get_args(model)[0]
    return [f.alias or n for n, f in model.model_fields.items() if n != "root"]
