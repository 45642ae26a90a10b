"""The seed articles: plain text files, and `labels.yaml` with labels and reasons for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from presseco.article import Article
from presseco.errors import ArticleError
from presseco.taxonomy import Taxonomy


def read_seeds(folder: Path, taxonomy: Taxonomy) -> list[Article]:
    """Return the seed articles of a folder, sorted by file name.

    Raises `ArticleError` when files and entries differ, and `TaxonomyError` on a label that the
    taxonomy does not have; both name `labels.yaml`, the line, or the file.
    """
    path = folder / "labels.yaml"
    if not path.exists():
        raise ArticleError(f"{path}: missing; expected one entry a seed file (see seeds/README.md)")
    entries, lines = _entries(path)
    texts = {f.name: f for f in sorted(folder.glob("*.txt"))}
    if odd := set(texts) ^ set(entries):
        raise ArticleError(f"{path}: files and entries differ: {', '.join(sorted(odd))}")
    return [_seed(f, entries[name], taxonomy, path, lines[name]) for name, f in texts.items()]


def _seed(
    file: Path, entry: dict[str, Any], taxonomy: Taxonomy, path: Path, lines: dict[str, int]
) -> Article:
    labels: dict[str, str | None] = {}
    for task in taxonomy.names:
        where = f"{path}:{lines.get(task, lines[''])}"
        if entry.get(task) is None:
            raise ArticleError(f"{where}: {file.name} has no {task!r}; expected a label")
        labels[task] = taxonomy.check(task, str(entry[task]), where)
    try:
        text = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as e:
        raise ArticleError(f"{file}: not UTF-8 (byte {e.start}). Convert it to UTF-8.") from None
    if not text:
        raise ArticleError(f"{file}: empty; expected the text of an article")
    return Article(
        id=f"seed-{file.stem}",
        text=text,
        labels=labels,
        title=text.split("\n", 1)[0],
        writer="seeds",
        style="seed",
        company=str(entry.get("company") or ""),
        companies_fictional=tuple(map(str, entry.get("fictional") or ())),
        rights="CC-BY-4.0",
    )


def _entries(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, int]]]:
    """Return the entries by file name, and the line of each entry's keys ('': of the entry)."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        entries = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ArticleError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    if not isinstance(entries, dict) or not isinstance(root, yaml.MappingNode):
        raise ArticleError(f"{path}: expected file names and their labels")
    lines = {}
    for key, value in root.value:
        lines[key.value] = {"": key.start_mark.line + 1}
        if not isinstance(value, yaml.MappingNode):
            raise ArticleError(
                f"{path}:{key.start_mark.line + 1}: {key.value} has no labels; expected keys"
            )
        lines[key.value] |= {k.value: k.start_mark.line + 1 for k, _ in value.value}
    return entries, lines
