"""Labelling functions: where they look, what they refuse, and that the shipped ones beat the prior."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from presseco.article import Article, read_articles
from presseco.errors import ConfigError, TaxonomyError
from presseco.patterns import read_patterns
from presseco.taxonomy import read_taxonomy
from presseco.vote import fold, parts

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
PLACES = {"headline": 3.0, "lead": 1.5, "body": 0.7}


def article(text: str, title: str = "") -> Article:
    return Article("a", text, dict.fromkeys(TAXONOMY.names), title=title)


def functions(folder: Path, *rows: dict[str, object], **more: object) -> Path:
    path = folder / "patterns.yaml"
    base = {"task": "sector", "label": "finance"}
    data = {"places": PLACES, "functions": [base | r for r in rows], **more}
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return path


def labels(path: Path, text: str, title: str = "") -> dict[str, str]:
    (votes,) = read_patterns(path, TAXONOMY).vote([article(text, title)])
    return {v.task: v.label for v in votes}


def test_headline_outweighs_the_body(tmp_path: Path) -> None:
    path = functions(
        tmp_path,
        {"name": "banks", "patterns": ["banques?"]},
        {"name": "cars", "label": "automobile", "patterns": ["voitures?"]},
    )
    body = "Un mot de plus. " * 30 + "Les voitures, la voiture."
    assert labels(path, f"Les banques respirent\n{body}") == {"sector": "finance"}
    assert labels(path, f"Les voitures respirent\n{body} Une banque.") == {"sector": "automobile"}


def test_words_match_whole_and_folded(tmp_path: Path) -> None:
    path = functions(
        tmp_path, {"name": "energy", "label": "energie", "patterns": ["energie", "mw"]}
    )
    assert labels(path, "L’ÉNERGIE MANQUE DANS TOUT LE PAYS\nPuis rien.") == {"sector": "energie"}
    assert labels(path, "Énergies et énergiques\nBMW en parle.") == {}


def test_a_tie_and_a_weak_hint_say_nothing(tmp_path: Path) -> None:
    path = functions(
        tmp_path,
        {"name": "banks", "patterns": ["banque"]},
        {"name": "cars", "label": "automobile", "patterns": ["voiture"]},
        {"name": "mines", "label": "chimie_materiaux", "weight": 0.2, "patterns": ["mine"]},
    )
    assert labels(path, "La banque et la voiture\nTexte.") == {}
    assert labels(path, "La mine et le reste\nTexte.") == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "x", "patterns": ["Énergie"]}, "lower case without accents"),
        ({"name": "x", "patterns": ["(a"]}, "no regular expression"),
        ({"name": "x", "patterns": ["a", "a"]}, "written twice"),
        ({"name": "x", "patterns": ["a"], "wheight": 2.0}, "unknown key 'functions.0.wheight'"),
        ({"name": "x", "patterns": ["a"], "only": ["title"]}, "only: ['title']"),
    ],
)
def test_a_broken_function_is_refused_by_name(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as e:
        read_patterns(functions(tmp_path, row), TAXONOMY)
    assert message in str(e.value)


def test_an_unknown_label_is_refused_with_the_nearest(tmp_path: Path) -> None:
    row = {"name": "x", "label": "finances", "patterns": ["a"]}
    with pytest.raises(TaxonomyError, match="did you mean 'finance'"):
        read_patterns(functions(tmp_path, row), TAXONOMY)


def test_a_quick_search_never_hides_a_match() -> None:
    """The literals that stand before a regex must not refuse what the regex finds."""
    patterns = read_patterns(ROOT / "seeds" / "patterns.yaml", TAXONOMY).patterns
    texts = [fold(a.text) for a in read_articles(ROOT / "data/articles/M.jsonl", TAXONOMY)][:4]
    for p in patterns:
        for text in texts:
            if p.regex.search(text):
                assert not p.literals or any(x in text for x in p.literals), p.name


def test_parts_of_an_article() -> None:
    titled = parts(article("Un titre net.\nLe texte suit.", "Un titre net."))
    assert titled.headline == "Un titre net." and titled.lead == "Le texte suit."
    apart = parts(article("Le texte suit.", "Un titre net"))
    assert (apart.headline, apart.lead, apart.body) == ("Un titre net", "Le texte suit.", "")
    bare = parts(article("PARIS, 3 mai - Une phrase entière, sans titre.\nLa suite."))
    assert bare.headline == "" and bare.lead.startswith("PARIS")


def test_shipped_functions_are_useful_on_articles_they_were_not_written_on() -> None:
    source = read_patterns(ROOT / "seeds" / "patterns.yaml", TAXONOMY)
    articles = list(read_articles(ROOT / "data" / "articles" / "VA.jsonl", TAXONOMY))[:60]
    votes = [{v.task: v.label for v in given} for given in source.vote(articles)]
    for task, least in (("sector", 0.7), ("event_type", 0.6), ("sentiment", 0.6)):
        told = [
            (v[task], a.labels[task]) for v, a in zip(votes, articles, strict=True) if task in v
        ]
        assert len(told) > 0.8 * len(articles), task
        assert sum(x == y for x, y in told) / len(told) > least, task
    assert len(Counter(v.get("sector") for v in votes)) > 10
