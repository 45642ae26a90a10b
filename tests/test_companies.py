"""The gazetteer: its file, names that are words too, and who a headline is about."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from conftest import ROOT
from presseco.article import Article
from presseco.companies import read_companies
from presseco.errors import ConfigError, TaxonomyError
from presseco.taxonomy import read_taxonomy

TAXONOMY = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
FILE = ROOT / "seeds" / "companies.csv"
COMPANIES = read_companies(FILE, TAXONOMY)
HEAD = "name,aliases,sector,country,needs\n"


def sector(text: str, title: str = "") -> str | None:
    (votes,) = COMPANIES.vote([Article("a", text, {}, title=title)])
    return votes[0].label if votes else None


def named(text: str) -> list[str]:
    return [m.company.name for m in COMPANIES.mentions(text)]


def test_the_file_has_companies_enough_of_every_sector_but_the_economy() -> None:
    counts = Counter(c.sector for c in COMPANIES.companies)
    assert len(COMPANIES.companies) >= 1500
    assert set(counts) == set(TAXONOMY["sector"].ids) - {"economie_generale"}
    assert min(counts.values()) >= 100


def test_the_file_is_sorted_and_clean() -> None:
    with FILE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(r["sector"], r["country"]) for r in rows] == sorted(
        (r["sector"], r["country"]) for r in rows
    )
    for r in rows:
        assert all(v == v.strip() for v in r.values()), r
        assert not re.search(r"[?=\t]", "".join(r.values())), r


@pytest.mark.parametrize("name", ["Orange", "Free", "Total", "Shell", "Apple", "Visa"])
def test_names_that_are_words_need_a_word_that_confirms_them(name: str) -> None:
    (company,) = [c for c in COMPANIES.companies if c.name == name]
    assert company.needs
    assert sector(f"{name} revient sur la place du village\nOn en parle au café.") is None
    assert sector(f"{name} en parle\nIl s'agit ici de {company.needs[0]}.") == company.sector


def test_names_match_whole_words_in_any_apostrophe_and_capitals() -> None:
    assert named("L’Oréal et l'Oréal, L'OREAL, chez L'Oréal") == ["L'Oréal"] * 3
    assert named("Renaultiste, carrefour des routes, il renault") == []
    assert named("IKEA, Ikea") == ["Ikea", "Ikea"]
    assert named("La Société Générale et la Banque Postale") == [
        "Société Générale",
        "La Banque Postale",
    ]


def test_the_longer_name_wins() -> None:
    assert named("Orange Bank ferme") == ["Orange Bank"]
    assert named("Deutsche Bank et Deutsche Telekom") == ["Deutsche Bank", "Deutsche Telekom"]


def test_an_acquisition_is_about_its_target() -> None:
    body = "\nLe marché salue l'opération."
    assert sector(f"LVMH rachète Le Parisien{body}") == "telecoms_medias"
    assert sector(f"LVMH vend Le Parisien{body}") == "luxe_consommation"


def test_a_list_of_companies_is_about_none_of_them() -> None:
    text = "Peu de mouvement." + " On a vu Renault, Danone, Sanofi, BNP Paribas et Airbus." * 2
    assert sector(text) is None


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("Renault,,automobile,FR,\nRENAULT,,automobile,FR,\n", ConfigError, "also a name of"),
        ("Renault,,voiture,FR,\n", TaxonomyError, "'voiture', which is no label"),
        ("Renault,,automobile,France,\n", ConfigError, "two letters"),
        (",,automobile,FR,\n", ConfigError, "name not empty"),
    ],
)
def test_a_broken_row_is_refused_by_line(
    tmp_path: Path, rows: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "companies.csv"
    path.write_text(HEAD + rows, encoding="utf-8")
    with pytest.raises(error, match=re.escape(message)) as e:
        read_companies(path, TAXONOMY)
    assert f"companies.csv:{1 + rows.count(chr(10))}" in str(e.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "companies.csv"
    path.write_text("name,sector\nRenault,automobile\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected the columns name, aliases"):
        read_companies(path, TAXONOMY)
