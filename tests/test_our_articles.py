"""Our own data: the articles and seeds as they are shipped, every rule that the data card states."""

from __future__ import annotations

import re
import statistics
from collections import Counter

import pytest

from conftest import ROOT
from presseco.article import Article, read_articles
from presseco.config import read_config
from presseco.corpus import Corpus, article_files, build_corpus, clean, leaks
from presseco.datasheet import BY_SUBJECT
from presseco.examples import load_data
from presseco.seeds import read_seeds
from presseco.stories import near_pairs
from presseco.taxonomy import read_taxonomy

CONFIG = read_config(ROOT / "configs" / "experiment" / "camembert-mini.yaml")
TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
WORD = re.compile(r"\w+")


@pytest.fixture(scope="module")
def everything() -> list[Article]:
    return [a for f in article_files(CONFIG) for a in read_articles(f, TAXONOMY)]


@pytest.fixture(scope="module")
def articles(everything: list[Article]) -> list[Article]:
    """The business articles; the out-of-domain texts have rules of their own."""
    return [a for a in everything if not a.out_of_domain]


@pytest.fixture(scope="module")
def seeds() -> list[Article]:
    return read_seeds(ROOT / "seeds", TAXONOMY)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The real corpus, built by the real settings into another folder."""
    output = str(tmp_path_factory.mktemp("real") / "corpus")
    corpus = CONFIG.corpus.model_copy(update={"output": output})
    return build_corpus(CONFIG.model_copy(update={"corpus": corpus}))[0]


def test_every_article_is_complete(articles):
    for a in articles:
        assert all(a.labels.values()), a.id
        assert a.writer and a.style and a.rights, a.id
        assert a.rights == "CC-BY-4.0", a.id
        clean(a, CONFIG)


def test_ids_are_unique(everything, seeds):
    ids = Counter(a.id for a in [*everything, *seeds])
    assert [i for i, n in ids.items() if n > 1] == []


def test_title_is_the_first_line_where_there_is_one(articles):
    for a in articles:
        if a.title:  # a kicker may stand above it
            assert a.title in a.text[: 2 * len(a.title) + 200], a.id


def test_every_label_occurs_in_every_split(corpus):
    data = load_data(corpus)
    for split in (data.train, data.validation, data.test):
        for t, task in enumerate(TAXONOMY.tasks):
            seen = Counter(split.labels[:, t].tolist())
            assert all(seen[i] for i in range(len(task.ids))), (task.name, seen)


def test_quotas(articles: list[Article]) -> None:
    """3,000 articles; 180 a sector, 160 an event, 6 a cell; macroeconomy and finance by weight."""
    assert len(articles) >= 3000
    sectors = Counter(a.labels["sector"] for a in articles)
    events = Counter(a.labels["event_type"] for a in articles)
    cells = Counter((a.labels["sector"], a.labels["event_type"]) for a in articles)
    assert min(sectors.values()) >= 180 and sectors["finance"] >= 350, sectors
    assert sectors["economie_generale"] >= 500 and min(events.values()) >= 160, events
    assert len(cells) == 14 * 15 and min(cells.values()) >= 6, cells.most_common()[-9:]


def test_held_out_writers_all_wrote(everything):
    writers = {a.writer for a in everything}
    assert set(CONFIG.corpus.validation_writers) <= writers
    assert set(CONFIG.corpus.test_writers) <= writers
    assert not set(CONFIG.corpus.validation_writers) & set(CONFIG.corpus.test_writers)


def test_writers_by_subject_are_where_the_datasheet_has_them(everything):
    writers = {a.writer for a in everything}
    held = {*CONFIG.corpus.validation_writers, *CONFIG.corpus.test_writers}
    assert len(set(BY_SUBJECT)) == len(BY_SUBJECT) and set(BY_SUBJECT) <= writers
    assert {w for w in BY_SUBJECT if w[0] in "VT"} == {w for w in BY_SUBJECT if w in held}


def test_train_shares_no_writer_company_or_story(corpus):
    found = leaks(corpus)
    assert len(found) == 6 and set(found.values()) == {0}, found


def test_no_article_is_lost_without_a_reason(corpus, everything, seeds):
    import json

    lines = (corpus.folder / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert sum(corpus.sizes.values()) + len(lines) == len(everything) + len(seeds)
    assert all(json.loads(line)["reason"] for line in lines)
    assert len(lines) <= 0.02 * len(everything)


def test_no_near_duplicates(everything, seeds):
    every = [*everything, *seeds]
    pairs = near_pairs([a.text for a in every], 0.2)
    assert [(every[i].id, every[j].id, round(s, 2)) for i, j, s in pairs] == []


def test_openings_differ(articles):
    openings = {" ".join(WORD.findall(a.text.casefold())[:5]) for a in articles}
    assert len(openings) >= 0.97 * len(articles)


def test_no_phrase_is_everywhere(articles):
    """French has its set phrases ("il n'y a pas", "un chiffre d'affaires de"); templates are longer."""
    for words, most in ((5, 0.01), (8, 0.003)):
        owners: Counter[tuple[str, ...]] = Counter()
        for a in articles:
            found = WORD.findall(a.text.casefold())
            owners.update({tuple(found[i : i + words]) for i in range(len(found) - words + 1)})
        phrase, n = owners.most_common(1)[0]
        assert n <= most * len(articles), f"{' '.join(phrase)!r} stands in {n} articles"


def test_lengths_are_those_of_the_brief(articles):
    """60 to 700 words, a tenth off at either end; briefs of three sentences may be shorter."""
    words = {a.id: len(a.text.split()) for a in articles}
    assert {i: n for i, n in words.items() if n > 770} == {}
    assert {i: n for i, n in words.items() if n < 40} == {}
    short = [i for i, n in words.items() if n < 54]
    assert len(short) <= 0.01 * len(articles), short
    assert 150 <= statistics.median(words.values()) <= 290
    assert sum(n > 450 for n in words.values()) >= 0.03 * len(articles)


def test_sentiments_are_balanced_as_in_the_brief(articles):
    """About 40 % negative, 25 % neutral, 35 % positive."""
    counts = Counter(a.labels["sentiment"] for a in articles)
    for label, share in (("negatif", 0.40), ("neutre", 0.25), ("positif", 0.35)):
        assert counts[label] / len(articles) == pytest.approx(share, abs=0.08), counts


def test_sentiment_is_no_function_of_the_event(articles):
    """Knowing the event alone is right about the sentiment in two thirds of the cases at most."""
    by_event: dict[str | None, Counter] = {}
    for a in articles:
        by_event.setdefault(a.labels["event_type"], Counter())[a.labels["sentiment"]] += 1
    right = sum(c.most_common(1)[0][1] for c in by_event.values())
    assert right <= 2 / 3 * len(articles)


def test_texts_are_clean_french(articles):
    for a in articles:
        assert not re.search(r"<[a-z]+[ />]|https?://|\ufffd|\t", a.text), a.id
        letters = re.findall(r"[^\W\d_]", a.text)
        assert sum(c.casefold() in "àâçéèêëîïôùûüœæ" for c in letters) >= 0.005 * len(letters), a.id


def test_invented_companies_stand_in_the_text(articles):
    """At least one word of the name; a text may shorten it."""
    missing = []
    for a in articles:
        text = a.text.casefold()
        for name in a.companies_fictional:
            words = [w for w in WORD.findall(name.casefold()) if len(w) > 2] or [name.casefold()]
            if not any(w in text for w in words):
                missing.append((a.id, name))
    assert len(missing) <= 3, missing


# --- seeds ------------------------------------------------------------------------------------


def test_seeds_cover_every_sector_event_and_sentiment(seeds):
    for task in TAXONOMY.tasks:
        assert {s.labels[task.name] for s in seeds} == set(task.ids)


def test_seeds_are_of_the_length_of_the_user_s_document(seeds):
    for s in seeds:
        assert 250 <= len(s.text.split()) <= 400, (s.id, len(s.text.split()))
        assert not re.search(r"[<>*_#]|http", s.text), s.id


def test_every_seed_says_why():
    import yaml

    entries = yaml.safe_load((ROOT / "seeds" / "labels.yaml").read_text("utf-8"))
    for name, entry in entries.items():
        assert len(entry["why"].split()) >= 6, name


def test_alibaba_seed(seeds):
    [seed] = [s for s in seeds if "380 milliards de yuans" in s.text]
    assert seed.labels == {
        "sector": "technologie",
        "event_type": "investissement",
        "sentiment": "positif",
    }
    assert "50 milliards d'euros" in seed.text.replace("’", "'").replace("\u00a0", " ")


# --- out-of-domain texts ----------------------------------------------------------------------


def test_out_of_domain_texts_have_no_labels_and_other_writers_in_the_test(everything, corpus):
    outside = {a.id: a for a in everything if a.out_of_domain}
    assert all(set(a.labels.values()) == {None} for a in outside.values())
    writers: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for row in corpus.outside():
        writers[row["split"]].add(outside[row["id"]].writer)
    assert writers["train"] and writers["test"] and not writers["train"] & writers["test"]
