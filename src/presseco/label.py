"""The verb `label`: all sources vote, a label model combines them, a report judges them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from presseco.article import Article, parse_article
from presseco.config import Config, read_config
from presseco.consensus import agree_on
from presseco.corpus import article_files, clean, read_all
from presseco.errors import SourceError
from presseco.files import replacing, write_text
from presseco.labelling import Labelling, labellers, names, read_labelling
from presseco.labelreport import (
    ALL,
    PartRow,
    as_json,
    by_function,
    part_rows,
    part_table,
    source_rows,
    source_table,
)
from presseco.llm import LanguageModel
from presseco.patterns import Patterns
from presseco.progress import Report, progress
from presseco.source import Source, read_source
from presseco.taxonomy import Taxonomy, read_taxonomy
from presseco.vote import Labeller, Vote
from presseco.votes import VoteBook

#: The labelling file where a source names none.
DEFAULT = "configs/labelling.yaml"
#: Where the embedded corpus' votes and report go; a source's stand beside its articles.
EMBEDDED = "build/labels"
_SHOWN = 12

Gold = Mapping[str, str | None]


@dataclass(frozen=True)
class Labels:
    """What a run gave: labels of each article with their confidence, and the votes behind them."""

    articles: list[Article]
    gold: list[Gold]
    votes: list[dict[str, dict[str, Vote]]]
    labels: list[dict[str, tuple[str, float]]]
    asked: dict[str, int]
    reliability: dict[str, dict[str, float]]


def label(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    source: str | Path | None = None,
    labelling: str | Path | None = None,
    online: bool = False,
) -> Path:
    """Label the embedded corpus, or a source's collected articles; print and write the report.

    Return the folder with votes.jsonl, labels.jsonl and report.json. Of a source, articles.jsonl and
    shareable.jsonl get the labels where nothing better is known.
    """
    console = Console()
    config = read_config(experiment, overrides)
    settings = read_source(source) if source else None
    file = labelling or (settings.labelling if settings else None) or DEFAULT
    rules = read_labelling(config.path(str(file)))
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    if settings:
        return label_source(settings, config, rules, taxonomy, console, online=online)
    articles = [
        clean(a, config)
        for a in read_all(config, taxonomy, article_files(config))
        if a.style != "seed" and not a.out_of_domain
    ]
    folder = config.path(EMBEDDED)
    sources = labellers(rules, config.root, taxonomy, online=online)
    with progress(console, "labels") as report:
        given = run(
            articles, [a.labels for a in articles], sources, rules, taxonomy, folder, report
        )
    write(folder, given, taxonomy, only_missing=False)
    splits = [_split(a, config) for a in articles]
    _report(folder, given, splits, sources, taxonomy, console)
    return folder


def label_source(
    source: Source,
    config: Config,
    rules: Labelling,
    taxonomy: Taxonomy,
    console: Console,
    *,
    online: bool = False,
) -> Path:
    """Label the articles that a source's collection has handed over."""
    folder = config.path(source.folder)
    articles, gold = read_collected(folder / "articles.jsonl", taxonomy)
    leave = source.rights.redistribute_text
    sources = labellers(rules, config.root, taxonomy, online=online, may_leave=leave)
    with progress(console, f"source {source.name} label") as report:
        given = run(articles, gold, sources, rules, taxonomy, folder, report)
    write(folder, given, taxonomy, only_missing=True)
    join(folder, taxonomy)
    _report(folder, given, ["" for _ in articles], sources, taxonomy, console)
    return folder


def read_collected(path: Path, taxonomy: Taxonomy) -> tuple[list[Article], list[Gold]]:
    """Return business articles, and what of their labels is not weak: given with them, or by hand."""
    articles: list[Article] = []
    gold: list[Gold] = []
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(file)
    except OSError:
        raise SourceError(f"{path}: no articles yet; first: presseco data --source FILE") from None
    for number, line in enumerate(lines, 1):
        article = parse_article(line, taxonomy, f"{path}:{number}")
        if not article.out_of_domain:
            weak = json.loads(line).get("weak", {})
            articles.append(article)
            gold.append({t: x for t, x in article.labels.items() if t not in weak})
    return articles, gold


def run(
    articles: Sequence[Article],
    gold: Sequence[Gold],
    sources: Sequence[Labeller],
    rules: Labelling,
    taxonomy: Taxonomy,
    folder: Path,
    report: Report = lambda *_: None,
) -> Labels:
    """Ask every source about the articles that are new to it, and combine all votes."""
    votes: list[dict[str, dict[str, Vote]]] = [{} for _ in articles]
    asked = {}
    with closing(VoteBook(folder / "votes.db")) as book:
        for name, source in zip(names(sources), sources, strict=True):
            asked[name] = book.ask(
                source,
                articles,
                lambda done, total, name=name: report(name, done, total),  # type: ignore[misc]
            )
            kept = book.votes(name)
            for given, article in zip(votes, articles, strict=True):
                given[name] = {v.task: v for v in kept.get(article.id, [])}
    labels: list[dict[str, tuple[str, float]]] = [{} for _ in articles]
    reliability = {}
    for task in taxonomy.tasks:
        flat = [
            {
                s: (task.ids.index(v[task.name].label), v[task.name].confidence)
                for s, v in given.items()
                if task.name in v
            }
            for given in votes
        ]
        found = agree_on(flat, len(task.ids))
        reliability[task.name] = found.reliability
        for i, own in enumerate(labels):
            if best := found.label(i, rules.least_confidence[task.name]):
                own[task.name] = (task.ids[best[0]], round(best[1], 4))
    return Labels(list(articles), list(gold), votes, labels, asked, reliability)


def write(folder: Path, given: Labels, taxonomy: Taxonomy, *, only_missing: bool) -> None:
    """Write votes.jsonl and labels.jsonl (`id`, tasks, and `weak` with each label's confidence)."""
    votes, labels = [], []
    for article, gold, said, own in zip(
        given.articles, given.gold, given.votes, given.labels, strict=True
    ):
        told = {
            s: {t: [v.label, v.confidence, list(v.by)] for t, v in by_task.items()}
            for s, by_task in said.items()
            if by_task
        }
        votes.append({"id": article.id, "votes": told})
        kept = {t: x for t, x in own.items() if not (only_missing and gold.get(t))}
        if kept:
            weak = {t: confidence for t, (_, confidence) in kept.items()}
            labels.append({"id": article.id, **{t: x for t, (x, _) in kept.items()}, "weak": weak})
    for name, rows in (("votes.jsonl", votes), ("labels.jsonl", labels)):
        write_text(folder / name, "".join(_line(r) for r in rows))


def join(folder: Path, taxonomy: Taxonomy) -> int:
    """Put labels.jsonl into articles.jsonl and shareable.jsonl; return how many articles have one.

    Labels of an earlier run go; those that were not weak stay as they are.
    """
    with (folder / "labels.jsonl").open(encoding="utf-8") as lines:
        labels = {row["id"]: row for row in map(json.loads, lines)}
    for name in ("articles.jsonl", "shareable.jsonl"):
        path = folder / name
        with (
            replacing(path) as new,
            path.open(encoding="utf-8") as old,
            new.open("w", encoding="utf-8") as out,
        ):
            for line in old:
                row = json.loads(line)
                for task in row.pop("weak", {}):
                    row[task] = None
                out.write(_line(row | labels.get(row["id"], {})))
    return len(labels)


def _split(article: Article, config: Config) -> str:
    if article.writer in config.corpus.test_writers:
        return "test"
    return "validation" if article.writer in config.corpus.validation_writers else "train"


def _report(
    folder: Path,
    given: Labels,
    splits: Sequence[str],
    sources: Sequence[Labeller],
    taxonomy: Taxonomy,
    console: Console,
) -> None:
    together = [
        v | {ALL: {t: Vote(t, x, c) for t, (x, c) in own.items()}}
        for v, own in zip(given.votes, given.labels, strict=True)
    ]
    rows = source_rows(together, given.gold, splits, taxonomy)
    parts = judge_parts(given, splits, sources)
    bad = {v: [p for p in parts if p.verdict == v] for v in ("harmful", "dead")}
    report = {
        "articles": len(given.articles),
        "sources": as_json(rows),
        "reliability": given.reliability,
        "functions": as_json(by_function([p for p in parts if p.source == "patterns"])),
        "parts": as_json(parts),
    }
    write_text(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    _show(console, source_table(rows))
    if bad["harmful"]:
        worst = sorted(bad["harmful"], key=lambda p: p.n * (p.right - p.prior))[:_SHOWN]
        console.print("harmful (right less often than their label's share):")
        _show(console, part_table(worst))
    for source in sources:
        if isinstance(source, LanguageModel):
            console.print(
                f"llm: {source.asked} requests, {source.invalid} articles without an answer"
            )
    labelled = [sum(t in own for own in given.labels) for t in taxonomy.names]
    told = ", ".join(f"{t} {n:,}" for t, n in zip(taxonomy.names, labelled, strict=True))
    asked = ", ".join(f"{s} {n:,}" for s, n in given.asked.items())
    console.print(
        f"{len(given.articles):,} articles (asked now: {asked}); labelled: {told}; "
        f"{len(bad['dead'])} dead and {len(bad['harmful'])} harmful parts; in {folder}",
        soft_wrap=True,
    )


def judge_parts(given: Labels, splits: Sequence[str], sources: Sequence[Labeller]) -> list[PartRow]:
    """Judge patterns, seeds and companies on the articles that are not the test's."""
    keep = [i for i, s in enumerate(splits) if s != "test"]
    gold = [given.gold[i] for i in keep]
    rows = []
    for source in sources:
        hits: list[list[tuple[str, str, str]]]
        if isinstance(source, Patterns):
            # All that is found, not only what agreed with the vote.
            hits = [[_part(p) for p in source.fired(given.articles[i])] for i in keep]
        else:
            hits = [
                [
                    (part, t, v.label)
                    for t, v in given.votes[i][source.name].items()
                    for part in v.by
                ]
                for i in keep
            ]
        rows += part_rows(source.name, _known(source), hits, gold)
    return rows


def _known(source: Labeller) -> Iterable[tuple[str, str, str]]:
    """Return all parts that could be found, so that those that never are can be named.

    Not of the gazetteer: that a company is not in the news says nothing against its row.
    """
    from presseco.similar import Similar

    if isinstance(source, Patterns):
        return [_part(p) for p in source.patterns]
    if isinstance(source, Similar):
        return [
            (s.name, t, x) for s in source.seeds for t, x in s.labels.items() if t in source.tasks
        ]
    return []


def _part(pattern: Any) -> tuple[str, str, str]:
    return pattern.name, pattern.task, pattern.label


def _show(console: Console, table: tuple[list[str], list[list[str]]]) -> None:
    head, cells = table
    shown = Table(*head, box=None)
    for row in cells:
        shown.add_row(*(c.replace("[", "\\[") for c in row))
    console.print(shown)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
