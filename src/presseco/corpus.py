"""Build the labelled corpus: articles and seeds in, a `datasets` DatasetDict with a digest out."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    disable_progress_bars,
    load_from_disk,
)

from presseco.article import Article, read_articles
from presseco.config import Config
from presseco.errors import ArticleError, ConfigError
from presseco.files import replacing, write_text
from presseco.seeds import read_seeds
from presseco.split import SPLITS, assign, company_key, story_groups
from presseco.taxonomy import Taxonomy, read_taxonomy

#: Part of the digest: raise it when the same inputs are to give another corpus.
_RECIPE = 1
_BREAKS = re.compile(r"\r\n|[\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b\u00ad\ud800-\udfff]")
_TEXT_COLUMNS = ("id", "title", "text", "writer", "style", "company", "story", "rights")


@dataclass(frozen=True)
class Corpus:
    """A built corpus on disk. `digest` changes with any text, label, split or taxonomy change."""

    folder: Path
    digest: str
    taxonomy: Taxonomy
    sizes: dict[str, int]

    def load(self) -> DatasetDict:
        """Return the splits as a DatasetDict."""
        return load_from_disk(str(self.folder / "dataset"))

    def outside(self) -> list[dict[str, Any]]:
        """Return the out-of-domain texts as rows with `id`, `text` and `split`."""
        with (self.folder / "out_of_domain.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def build_corpus(config: Config) -> tuple[Corpus, bool]:
    """Build the corpus, or return the one on disk when no input changed (second value: skipped)."""
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    folder = config.path(config.corpus.output)
    files = article_files(config)
    stamp = _stamp(config, files)
    manifest_path = folder / "manifest.json"
    if manifest_path.exists() and (folder / "dataset").exists():
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if manifest["stamp"] == stamp:
            return Corpus(folder, manifest["digest"], taxonomy, manifest["sizes"]), True
    disable_progress_bars()  # nine bars for a second's work
    articles = [clean(a, config) for a in read_all(config, taxonomy, files)]
    corpus = write_corpus(articles, taxonomy, config, stamp)
    return corpus, False


def article_files(config: Config) -> list[Path]:
    """Return the article files that the configuration names, sorted; folders give their .jsonl."""
    files: list[Path] = []
    for name in config.corpus.articles:
        path = config.path(name)
        if not path.exists():
            raise ConfigError(f"corpus.articles: {path} does not exist")
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"corpus.articles: no .jsonl file in {config.corpus.articles}")
    return files


def read_all(config: Config, taxonomy: Taxonomy, files: Iterable[Path]) -> list[Article]:
    """Return all articles and seeds; raise on the first that breaks the format or an id twice."""
    articles = [a for f in files for a in read_articles(f, taxonomy)]
    if config.corpus.seeds:
        articles += read_seeds(config.path(config.corpus.seeds), taxonomy)
    twice = [i for i, n in Counter(a.id for a in articles).items() if n > 1]
    if twice:
        raise ArticleError(f"article ids used twice: {', '.join(twice[:5])}; ids must be unique")
    return articles


def clean(article: Article, config: Config) -> Article:
    """Return the article in Unicode NFC without control characters; refuse a wrong length."""
    text = _CONTROL.sub("", _BREAKS.sub("\n", article.text))
    text = unicodedata.normalize("NFC", text).strip()
    words, limits = len(text.split()), config.corpus
    if len(text) > limits.max_chars:
        raise ArticleError(
            f"article {article.id}: {len(text):,} characters, at most {limits.max_chars:,} allowed "
            "(corpus.max_chars). Split the file into articles."
        )
    if words < limits.min_words:
        raise ArticleError(
            f"article {article.id}: {words} words, at least {limits.min_words} expected "
            "(corpus.min_words)"
        )
    return replace(article, text=text, title=unicodedata.normalize("NFC", article.title.strip()))


def write_corpus(
    articles: Sequence[Article], taxonomy: Taxonomy, config: Config, stamp: str
) -> Corpus:
    """Group, split and write the corpus folder; the old one stays until the new one is complete."""
    articles = sorted(articles, key=lambda a: a.id)
    stories = story_groups(articles, config.corpus.near_duplicate)
    splits, reasons = assign(articles, stories, config.corpus)
    first_of: dict[tuple[str, Any], str] = {}
    rows: dict[str, list[dict[str, Any]]] = {s: [] for s in SPLITS}
    outside: list[dict[str, Any]] = []
    for a, story, split in zip(articles, stories, splits, strict=True):
        if split is None:
            continue
        if first_of.setdefault((story, split), a.id) != a.id:
            reasons[a.id] = f"tells the same story as {first_of[story, split]} (near-duplicate)"
        elif a.out_of_domain:
            outside.append({"id": a.id, "text": a.text, "split": split})
        else:
            rows[split].append(_row(a, story, taxonomy))
    if empty := [s for s in SPLITS if not rows[s]]:
        raise ConfigError(
            f"corpus: no article in {' and '.join(empty)}, of {len(articles)} in all. Add articles, "
            "or see corpus.validation_writers and corpus.test_writers."
        )
    digest = _digest(rows, outside, taxonomy)
    sizes = {s: len(r) for s, r in rows.items()} | {"out_of_domain": len(outside)}
    folder = config.path(config.corpus.output)
    with replacing(folder) as new:
        new.mkdir()
        features = _features(taxonomy)
        DatasetDict(
            {s: Dataset.from_list(r, features=features) for s, r in rows.items()}
        ).save_to_disk(str(new / "dataset"))
        for s, r in rows.items():
            Dataset.from_list(r, features=features).to_parquet(str(new / f"{s}.parquet"))
        _write_lines(new / "out_of_domain.jsonl", outside)
        _write_lines(new / "quarantine.jsonl", [{"id": i, "reason": r} for i, r in reasons.items()])
        manifest = {"stamp": stamp, "digest": digest, "sizes": sizes, "quarantined": len(reasons)}
        write_text(new / "datasheet.md", datasheet(rows, taxonomy, manifest))
        write_text(new / "manifest.json", json.dumps(manifest, indent=1))
    return Corpus(folder, digest, taxonomy, sizes)


def leaks(corpus: Corpus) -> dict[str, int]:
    """Count values of writer, company and story that train shares with validation or test."""
    data = corpus.load()
    found = {}
    for column in ("writer", "company", "story"):
        train = {company_key(v) for v in data["train"][column] if v}
        for other in ("validation", "test"):
            theirs = {company_key(v) for v in data[other][column] if v}
            found[f"{column}, train and {other}"] = len(train & theirs)
    return found


def datasheet(
    rows: dict[str, list[dict[str, Any]]], taxonomy: Taxonomy, manifest: dict[str, Any]
) -> str:
    """Return the corpus' tables as Markdown: sizes, lengths, labels a split."""
    out = ["# Datasheet of the built corpus", "", f"Digest `{manifest['digest']}`. "]
    out[-1] += f"{manifest['quarantined']} articles left out (quarantine.jsonl says why each)."
    out += [
        "",
        "| split | articles | writers | words: median | 90 % |",
        "|---|---:|---:|---:|---:|",
    ]
    for split, r in rows.items():
        words = sorted(len(x["text"].split()) for x in r) or [0]
        middle, high = words[len(words) // 2], words[int(0.9 * (len(words) - 1))]
        writers = len({x["writer"] for x in r})
        out.append(f"| {split} | {len(r)} | {writers} | {middle} | {high} |")
    for task in taxonomy.tasks:
        out += [
            "",
            f"## {task.name}",
            "",
            "| label | train | validation | test |",
            "|---|--:|--:|--:|",
        ]
        counts = {s: Counter(x[task.name] for x in r) for s, r in rows.items()}
        for label in task.ids:
            numbers = " | ".join(str(counts[s][label]) for s in SPLITS)
            out.append(f"| {label} | {numbers} |")
    return "\n".join(out) + "\n"


def _row(a: Article, story: str, taxonomy: Taxonomy) -> dict[str, Any]:
    fixed = {c: getattr(a, c) for c in _TEXT_COLUMNS} | {"story": story}
    return fixed | {t: a.labels[t] for t in taxonomy.names}


def _features(taxonomy: Taxonomy) -> Features:
    columns = {c: Value("string") for c in _TEXT_COLUMNS}
    return Features(columns | {t.name: ClassLabel(names=list(t.ids)) for t in taxonomy.tasks})


def _digest(rows: Any, outside: Any, taxonomy: Taxonomy) -> str:
    content = json.dumps([_RECIPE, rows, outside, taxonomy.task_map], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stamp(config: Config, files: Sequence[Path]) -> str:
    """Digest everything the build reads: files, taxonomy, seeds and the corpus settings."""
    h = hashlib.sha256(f"{_RECIPE}{config.corpus.model_dump_json()}".encode())
    inputs = [*files, config.path(config.corpus.taxonomy)]
    if config.corpus.seeds:
        inputs += sorted(config.path(config.corpus.seeds).glob("*"))
    for f in inputs:
        if f.is_file():
            h.update(f.name.encode() + hashlib.sha256(f.read_bytes()).digest())
    return h.hexdigest()[:16]


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
