"""The verbs `annotate`, `adjudicate`, `audit`: from unlabelled articles to labels of several people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from presseco.adjudicate import Pair, Settled, pairs, queue, settle
from presseco.article import Article, read_articles
from presseco.audit import held_out, summary, suspects
from presseco.config import Config
from presseco.errors import ArticleError, SourceError
from presseco.files import replacing, write_text
from presseco.labelstudio import Annotation, page, read_export, tasks
from presseco.progress import progress
from presseco.taxonomy import Taxonomy, read_taxonomy


def annotate(config: Config, articles: Path, model: str | None, output: Path, n: int) -> Path:
    """Write what Label Studio needs to label `n` articles of a file: `page.xml` and `tasks.json`.

    With a model (a bundle), the articles are those worth labelling most, with the model's answers as
    proposals, and `rounds.json` remembers its answers for the stopping rule; without one, the first
    `n` that lack a label. Articles that have all their labels are not offered.
    """
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    console = Console()
    pool = [a for a in _articles(articles, taxonomy) if None in a.labels.values()]
    if not pool:
        raise ArticleError(f"{articles}: every article has all its labels; nothing to annotate")
    output.mkdir(parents=True, exist_ok=True)
    if model:
        chosen, proposals, version = _choose(pool, model, output, n, console)
    else:
        chosen, proposals, version = pool[:n], None, ""
    write_text(output / "page.xml", page(taxonomy))
    found = tasks(chosen, proposals, version)
    write_text(output / "tasks.json", json.dumps(found, ensure_ascii=False, indent=1))
    console.print(
        f"{len(found)} of {len(pool)} articles in {output / 'tasks.json'}. In Label Studio: new "
        f"project, Labeling Setup → Custom: paste {output / 'page.xml'}; Import: tasks.json.",
        soft_wrap=True,
        markup=False,
    )
    return output


def _choose(
    pool: list[Article], model: str, output: Path, n: int, console: Console
) -> tuple[list[Article], list[Mapping[str, tuple[str, float]]], str]:
    from presseco.active import choose, stable, uncertainty
    from presseco.classifier import Classifier

    classifier = Classifier.load(model)
    answers = []
    with progress(console, "annotate") as report:
        for start in range(0, len(pool), 256):
            some = pool[start : start + 256]
            # A title apart may stand in the text as well: `text` is the whole article here.
            answers += classifier.predict([a.text for a in some])
            report("predictions", start + len(some), len(pool))
    verdict = stable(output / "rounds.json", [a.id for a in pool], answers)
    console.print(_verdict(verdict), markup=False, soft_wrap=True)
    picks = choose([a.text for a in pool], uncertainty(answers), n)
    proposals: list[Mapping[str, tuple[str, float]]] = [
        {t: (x.label, x.probability) for t, x in answers[i].answers.items()} for i in picks
    ]
    return [pool[i] for i in picks], proposals, answers[0].model


def _verdict(found: Mapping[str, Any]) -> str:
    if found["kappa"] is None:
        return "round 1: the stopping rule needs an earlier model to compare with"
    text = (
        f"round {found['rounds']}: answers on the stop set agree with the round before at kappa "
        f"{found['kappa']:.3f} (least of the tasks); stable {found['run']} rounds running"
    )
    return text + (". STOP: more labels change little" if found["stop"] else "")


def adjudicate(config: Config, exports: Sequence[Path], articles: Path | None, output: Path) -> int:
    """Read Label Studio exports (or .jsonl of annotations) and write what came of them.

    `annotations.jsonl` has every answer (a source of `presseco label`), `labelled.jsonl` the
    articles with settled labels, `queue.jsonl` (and `queue-tasks.json`) what a third person must
    decide, `agreement.json` the agreement of each two people. Returns how many are open.
    """
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    given = [a for path in exports for a in _annotations(path, taxonomy)]
    _refuse_twice(given)
    found = settle(given, taxonomy.names)
    agreement = pairs(given, taxonomy.names)
    known = {a.id: a for a in _articles(articles, taxonomy)} if articles else {}
    if missing := [s.id for s in found if articles and s.id not in known]:
        raise SourceError(f"{articles}: has no article {missing[0]!r} ({len(missing)} missing)")
    todo = queue(found)
    output.mkdir(parents=True, exist_ok=True)
    _lines(output / "annotations.jsonl", (a.to_json() for a in given))
    _lines(output / "queue.jsonl", (json.dumps(row, ensure_ascii=False) for row in todo))
    write_text(output / "agreement.json", json.dumps([_flat(p) for p in agreement], indent=1))
    if articles:
        _lines(output / "labelled.jsonl", (_labelled(s, known, given) for s in found if not s.open))
        open_ = tasks(known[row["id"]] for row in todo)
        write_text(output / "queue-tasks.json", json.dumps(open_, ensure_ascii=False, indent=1))
    _print(Console(), found, agreement, output)
    return len(todo)


def _annotations(path: Path, taxonomy: Taxonomy) -> list[Annotation]:
    if path.suffix != ".jsonl":
        return list(read_export(path, taxonomy))
    from presseco.imported import read_annotations

    return [
        Annotation(i, person.person, {t: labels.get(t) for t in taxonomy.names})
        for person in read_annotations([path], taxonomy)
        for i, labels in person.labels.items()
    ]


def _refuse_twice(given: Iterable[Annotation]) -> None:
    seen: dict[tuple[str, str], Annotation] = {}
    for a in given:
        before = seen.setdefault((a.id, a.annotator), a)
        if before != a:
            raise SourceError(f"{a.annotator} labelled {a.id} twice, differently; keep one of them")


def _labelled(s: Settled, known: Mapping[str, Article], given: Sequence[Annotation]) -> str:
    a = known[s.id]
    new = tuple({"annotator": g.annotator, **g.labels} for g in given if g.id == s.id)
    labels = {t: None if s.out_of_domain else x or a.labels[t] for t, x in s.labels.items()}
    outside = a.out_of_domain or s.out_of_domain
    annotations = (*a.annotations, *new)
    return replace(a, labels=labels, out_of_domain=outside, annotations=annotations).to_json()


def _flat(p: Pair) -> dict[str, Any]:
    return {"first": p.first, "second": p.second, **asdict(p.agreement)}


def _print(console: Console, found: Sequence[Settled], agreement: list[Pair], output: Path) -> None:
    if agreement:
        table = Table("annotators", "task", "articles", "agree", "Cohen's kappa", "weakest label")
        for p in agreement:
            a = p.agreement
            weak = min(a.by_class, key=a.by_class.__getitem__)
            low, high = a.interval
            table.add_row(
                f"{p.first} / {p.second}",
                a.task,
                str(a.n),
                f"{a.raw:.1%}",
                f"{a.kappa:.3f} ({low:.3f}–{high:.3f})",
                f"{weak} ({a.by_class[weak]:.2f})",
            )
        console.print(table)
    alone = sum(s.annotators == 1 for s in found)
    open_ = sum(bool(s.open) for s in found)
    console.print(
        f"{len(found)} articles: {len(found) - open_} settled ({alone} by one person only), {open_} "
        f"for a third person in {output / 'queue.jsonl'}",
        soft_wrap=True,
        markup=False,
    )


def audit(config: Config, articles: Sequence[Path], output: Path) -> int:
    """Look for labels that seem wrong; write them to `output`, worst first; return how many."""
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    found = [a for path in articles for a in _articles(path, taxonomy) if not a.out_of_domain]
    console = Console()
    with progress(console, "audit") as report:
        labels, probabilities = held_out(found, taxonomy, config.baseline, report)
    doubts = suspects([a.id for a in found], labels, probabilities, taxonomy)
    _lines(output, (json.dumps(asdict(s), ensure_ascii=False) for s in doubts))
    table = Table("task", "labels", "look wrong", "commonest: given → suggested")
    for row in summary(doubts, labels, taxonomy):
        table.add_row(row["task"], str(row["labels"]), str(row["suspect"]), row["commonest"])
    console.print(table)
    for s in doubts[:10]:
        console.print(
            f"{s.id} {s.task}: {s.given}, perhaps {s.suggested} (quality {s.quality:.3f})",
            markup=False,
        )
    console.print(f"all {len(doubts)} in {output}: read them again, text first", markup=False)
    return len(doubts)


def _articles(path: Path, taxonomy: Taxonomy) -> list[Article]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ArticleError(f"{path}: no .jsonl file in it")
    return [a for f in files for a in read_articles(f, taxonomy)]


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, new.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
