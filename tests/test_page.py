"""Reports as pages: self-contained, escaped, with the numbers of the run."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from presseco import page
from presseco.evaluate import macro_f1
from presseco.record import EXCERPT, excerpt
from presseco.report import run_page
from presseco.runs import Run, run_of
from presseco.table import HUMAN, Line, markdown, short, tasks_of, terminal

LABELS = ["positif", "neutre", "negatif"]


class Tags(HTMLParser):
    """Counts tags, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def make_run(n: int = 60, wrong: int = 12, name: str = "tiny · 2k articles · seed 1") -> Run:
    truth = [LABELS[i % 3] for i in range(n)]
    guess = [LABELS[(i + 1) % 3] if i < wrong else t for i, t in enumerate(truth)]
    columns = {
        "id": [f"A-{i}" for i in range(n)],
        "text": [f"Texte <b>{i}</b> & suite" for i in range(n)],
        "sentiment_true": [None if i == n - 1 else t for i, t in enumerate(truth)],
        "sentiment": guess,
        "sentiment_probability": [0.4 + 0.5 * i / n for i in range(n)],
    }
    metrics = {"test.sentiment.coverage": 0.5, "docs_per_second": 30.0, "megabytes": 28.0}
    return run_of("r1", name, columns, metrics, {"seed": 1, "corpus_digest": "abc"}, {})


def test_page_is_closed_escaped_and_asks_nobody():
    text = run_page(make_run(), {"train.loss": [(1, 3.0), (2, 2.0)]})
    tags = Tags(text)
    assert not tags.open
    assert "script" not in tags.seen and "link" not in tags.seen
    assert "<b>3</b>" not in text and "&lt;b&gt;3&lt;/b&gt; &amp; suite" in text
    assert not re.search(r"""(src|href|url\()\s*=?\s*["'(]?https?:""", text)
    assert "default-src 'none'" in text


def test_report_has_the_scores_of_the_answers():
    run = make_run()
    text = run_page(run, {})
    score = run.score("sentiment")
    assert score.n == 59  # one label is unknown
    assert f"{score.macro_f1:.3f}" in text and f"{score.accuracy:.3f}" in text
    assert score.macro_f1 == pytest.approx(macro_f1(score.confusion))
    assert "sentiment: 12 mistakes" in text
    assert text.index("A-11<") < text.index("A-0<")  # the surest mistake first
    assert "corpus_digest" in text and "abc" in text


def test_report_of_an_old_run_without_confidence_and_texts():
    run = make_run()
    old = Run(run.id, run.name, "abc", run.ids, run.truth, run.guess, {})
    text = run_page(old, {})
    assert "How sure, how right" not in text and "12 mistakes" in text


def test_confidence_of_a_run_gives_its_probabilities():
    labels, p, truth = make_run().answers("sentiment")
    assert labels == sorted(LABELS) and p.shape == (59, 3) and len(truth) == 59
    assert p.max(axis=1)[30] == pytest.approx(0.65)


def test_two_pictures_do_not_share_names():
    def draw() -> Figure:
        figure = Figure()
        figure.subplots().plot([1, 2])
        return figure

    first, second = (set(re.findall(r' id="([^"]+)"', page.picture(draw(), n))) for n in "ab")
    assert first and not first & second
    assert page.picture(draw(), "a") == page.picture(draw(), "a")
    assert ">1.0<" in page.picture(draw(), "a")  # text stays text


def test_numbers_stand_to_the_right_and_verdicts_have_a_colour():
    text = page.table(
        ["task", "n", "B − A", "verdict"],
        [
            ["sector", 630, "+0.062 (+0.027 to +0.098)", "better"],
            ["mood", 630, "-0.010 (-0.044 to +0.025)", "worse"],
        ],
    )
    assert text.count("class=n") == 2 + 2 * 2
    assert page.table(["id"], [["c1"], ["7"]]).count("class=n") == 0
    assert "<td class=better>better" in text and "<td class=worse>worse" in text


@pytest.mark.parametrize(
    ("count", "text"), [(600, "600"), (1954, "2k"), (3000, "3k"), (3457, "3.5k"), (20000, "20k")]
)
def test_short_number(count, text):
    assert short(count) == text


def test_excerpt_is_one_line_cut_between_words():
    text = excerpt("Un titre\n" + "mot " * 100)
    assert text.startswith("Un titre mot mot") and text.endswith("mot …")
    assert len(text) <= EXCERPT + 2 and excerpt("Court.\n") == "Court."


def test_table_is_the_same_in_markdown_and_terminal():
    metrics = {"docs_per_second": 30.4, "megabytes": 27.9, "minutes": 12.12}
    for i, task in enumerate(("sentiment", "sector", "event_type")):
        key = f"test.{task}.macro_f1"
        metrics |= {key: 0.8 + i / 100, f"{key}_low": 0.75, f"{key}_high": 0.85}
    line = Line("tiny", metrics)
    assert tasks_of(metrics) == list(HUMAN)
    row = markdown([line]).splitlines()[2]
    assert row == (
        "| tiny | 0.810 (0.750–0.850) | 0.820 (0.750–0.850) | 0.800 (0.750–0.850) | 30 | 28 | 12.1 |"
    )
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal([line], dict.fromkeys(HUMAN, 630)))
    printed = console.export_text()
    assert "0.810" in printed and "0.750–0.850" in printed and "…" not in printed
    assert np.max([len(x) for x in printed.splitlines()]) <= 80
