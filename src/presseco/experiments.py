"""The experiments of one training: read, compared, and their encoders found, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from presseco.config import Config, read_config
from presseco.encoder import locate
from presseco.errors import ConfigError

#: The experiment whose model is what services and other commands take by default.
DEFAULT = "camembert-mini"


def read_experiments(files: Sequence[str], overrides: Sequence[str] = ()) -> list[Config]:
    """Return the experiments, ready to train on one corpus.

    Cheap, and called before torch is imported: a mistake in a setting, or a hub that cannot be
    reached, is told at once and not after other models have been trained.
    """
    configs = [read_config(file, overrides) for file in files]
    for config in configs:
        if (config.corpus, config.root) != (configs[0].corpus, configs[0].root):
            raise ConfigError(
                f"{config.name} and {configs[0].name} build different corpora: their scores cannot "
                "stand in one table. Train them apart, or change the corpus for all: --set corpus.…"
            )
    find_encoders(configs)
    return configs


def find_encoders(configs: Sequence[Config]) -> None:
    """Raise `EncoderError` when an experiment's encoder is neither here nor on the hub."""
    for config in configs:
        if config.kind != "baseline":
            locate(config.camembert.encoder, config.root)
