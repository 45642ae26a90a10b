"""The verb `data`: collect a source's articles where one is named, then build the corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
from rich.console import Console
from rich.table import Table

from presseco.collect import collect
from presseco.config import Config, read_config
from presseco.corpus import Corpus, build_corpus, leaks
from presseco.errors import SourceError
from presseco.handover import Counts
from presseco.labelling import read_labelling
from presseco.progress import progress
from presseco.source import Source, read_source
from presseco.taxonomy import read_taxonomy


def data(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    source: str | Path | None = None,
    online: bool = False,
    workers: int | None = None,
    push: str | None = None,
) -> Corpus:
    """Build the corpus of an experiment, or of a source file; print counts, leaks and the place.

    `push` is a dataset name on the hub; it needs `online`, and drops texts that may not be shared.
    """
    datasets.disable_progress_bars()  # it draws one for every file it writes
    console = Console()
    config = read_config(experiment, overrides)
    settings = read_source(source) if source else None
    if push and not (settings and online):
        raise SourceError("--push needs --source, whose rights decide on the texts, and --online")
    if settings:
        with progress(console, f"source {settings.name}") as report:
            counts = collect(settings, config, workers=workers, online=online, report=report)
        _show(console, counts, config.path(settings.folder))
        if settings.labelling:
            _label(settings, config, console, online)
        config = for_source(config, settings)
    corpus, skipped = build_corpus(config)
    print(describe_leaks(leaks(corpus)))
    if push and settings:
        from presseco.hub import push_corpus

        print(f"pushed to {push_corpus(corpus, push, settings.rights.redistribute_text)}")
    state = "unchanged" if skipped else "built"
    print(f"corpus {corpus.digest} {state}: {corpus.sizes} in {corpus.folder}")
    return corpus


def _label(settings: Source, config: Config, console: Console, online: bool) -> None:
    from presseco.label import label_source

    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    rules = read_labelling(config.path(str(settings.labelling)))
    label_source(settings, config, rules, taxonomy, console, online=online)


def for_source(config: Config, source: Source) -> Config:
    """Return the configuration whose corpus is the source's articles, beside its ledger."""
    corpus = config.corpus.model_copy(
        update={
            "articles": [f"{source.folder}/articles.jsonl"],
            "seeds": None,
            "output": f"{source.folder}/corpus",
            "validation_writers": source.split.validation_writers,
            "test_writers": source.split.test_writers,
            "split_by": source.split.by,
            "near_duplicate": None,  # the collection has clustered already, and far faster
            "min_words": source.keep.min_words,
            "max_chars": source.keep.max_chars,
        }
    )
    return config.model_copy(update={"corpus": corpus})


def describe_leaks(found: dict[str, int]) -> str:
    """Return one line on what train shares with validation and test."""
    some = [f"{n} {what}" for what, n in found.items() if n]
    if not some:
        return "leaks: train shares no writer, company or story with validation or test"
    return f"leaks: shared values of {', '.join(some)} (scripts/leak_report.py measures the effect)"


def _show(console: Console, counts: Counts, folder: Path) -> None:
    table = Table("stage", box=None)
    for name in ("in", "aside", "out"):
        table.add_column(name, justify="right")
    table.add_column("reasons")
    for stage, inside, aside, out, reasons in counts.rows():
        table.add_row(stage, f"{inside:,}", f"{aside:,}", f"{out:,}", reasons)
    console.print(table)
    if not counts.kept:
        raise SourceError(f"no article is left; {folder / 'quarantine.jsonl'} says why for each")
    console.print(
        f"{counts.read:,} articles read = {counts.kept:,} kept in {counts.stories:,} stories "
        f"+ {counts.quarantined:,} in quarantine; {counts.labelled:,} labelled; in {folder}",
        soft_wrap=True,
    )
