"""The way to Label Studio and back: labelling page, tasks with proposals out, annotations in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from presseco.article import OUT_OF_DOMAIN, Article
from presseco.errors import SourceError
from presseco.taxonomy import Taxonomy

#: Name of the page's last question: a text that is no business news has no other answer.
OUTSIDE_QUESTION = "out_of_domain"


@dataclass(frozen=True)
class Annotation:
    """What one person said of one article; a task left open is None, `out_of_domain` leaves all."""

    id: str
    annotator: str
    labels: dict[str, str | None]
    out_of_domain: bool = False

    def to_json(self) -> str:
        """Return one JSON line: `id`, `annotator`, and a key a task."""
        row: dict[str, Any] = {"id": self.id, "annotator": self.annotator, **self.labels}
        if self.out_of_domain:
            row["out_of_domain"] = True
        return json.dumps(row, ensure_ascii=False)


def page(taxonomy: Taxonomy) -> str:
    """Return the labelling page (Label Studio's XML): the text, then one choice a task.

    People read a label's French name, with its definition as a hint; `alias` is what is exported.
    """
    lines = ["<View>", '  <Text name="text" value="$text"/>']
    for task in taxonomy.tasks:
        lines.append(f"  <Header value={quoteattr(task.question_fr)} size='4'/>")
        lines.append(_choices(task.name))
        for x in task.labels:
            lines.append(
                f"    <Choice value={quoteattr(x.display)} alias={quoteattr(x.id)} "
                f"hint={quoteattr(x.definition_fr)}/>"
            )
        lines.append("  </Choices>")
    lines.append(_choices(OUTSIDE_QUESTION))
    lines.append(f'    <Choice value="Hors sujet" alias="{OUT_OF_DOMAIN}"/>')
    return "\n".join([*lines, "  </Choices>", "</View>"]) + "\n"


def _choices(name: str) -> str:
    return (
        f'  <Choices name={quoteattr(name)} toName="text" choice="single-radio" showInline="true">'
    )


def task(
    article: Article, proposal: Mapping[str, tuple[str, float]] | None = None, model: str = ""
) -> dict[str, Any]:
    """Return one Label Studio task; `proposal` is a (label, probability) by task of `model`.

    Labels that the article has already are not shown: an annotator judges the text alone.
    """
    out: dict[str, Any] = {"data": {"id": article.id, "text": article.text}}
    if proposal:
        result = [
            {
                "from_name": name,
                "to_name": "text",
                "type": "choices",
                "value": {"choices": [label]},
                "score": round(p, 4),
            }
            for name, (label, p) in proposal.items()
        ]
        score = min(p for _, p in proposal.values())
        out["predictions"] = [{"model_version": model, "score": round(score, 4), "result": result}]
    return out


def read_export(path: Path, taxonomy: Taxonomy) -> Iterator[Annotation]:
    """Yield the annotations of an export in the format "JSON", any number of people a task.

    Skipped (cancelled) ones and drafts are no annotations. Raises `SourceError` naming the task, or
    `TaxonomyError` for a label that the guideline does not have.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise SourceError(f"{path}: no Label Studio export in JSON: {e}") from None
    if not isinstance(tasks, list):
        raise SourceError(f"{path}: expected a list of tasks, found {type(tasks).__name__}")
    for number, entry in enumerate(tasks, 1):
        where = f"{path}: task {number}"
        if not isinstance(entry, dict) or "annotations" not in entry:
            raise SourceError(
                f"{where}: no annotations. Export in the format 'JSON', not 'JSON-MIN' or 'CSV'."
            )
        article = (entry.get("data") or {}).get("id")
        if not isinstance(article, str) or not article:
            raise SourceError(f"{where}: no data.id; import tasks that `presseco annotate` wrote")
        for given in entry["annotations"]:
            if not given.get("was_cancelled"):
                yield _annotation(given, article, taxonomy, f"{where} ({article})")


def _annotation(
    given: Mapping[str, Any], article: str, taxonomy: Taxonomy, where: str
) -> Annotation:
    chosen = {}
    for part in given.get("result") or []:
        if part.get("type") == "choices":
            chosen[part["from_name"]] = part["value"]["choices"]
    for name, labels in chosen.items():
        if name not in (*taxonomy.names, OUTSIDE_QUESTION) or len(labels) != 1:
            raise SourceError(f"{where}: {name} is answered {labels}; expected one label a task")
    outside = OUTSIDE_QUESTION in chosen
    labels = {
        t: taxonomy.check(t, chosen[t][0], where) if t in chosen and not outside else None
        for t in taxonomy.names
    }
    return Annotation(article, _person(given.get("completed_by")), labels, outside)


def _person(by: Any) -> str:
    """Return who annotated: an e-mail where the export has it, else the user's number."""
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    return str(by if by is not None else "unknown")


def tasks(
    articles: Iterable[Article],
    proposals: Sequence[Mapping[str, tuple[str, float]]] | None = None,
    model: str = "",
) -> list[dict[str, Any]]:
    """Return the tasks of some articles, each with its proposal."""
    found = list(articles)
    if proposals is None:
        return [task(a) for a in found]
    return [task(a, p, model) for a, p in zip(found, proposals, strict=True)]
