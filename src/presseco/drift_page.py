"""The report of `presseco drift`: one HTML file with its charts inside, nothing from a network."""

from __future__ import annotations

from matplotlib.figure import Figure

from presseco import page
from presseco.drift import DRIFT, WATCH, Aspect, Drift

_BLUE, _GREY = "#1f4e79", "#b9b9b9"
_DO = {
    "no drift": "The articles look like those of training: the scores measured there should hold.",
    "watch": "Something moves. Label fifty of these articles and see whether the answers still hold.",
    "drift": (
        "These are other articles than those of training: its scores say little about them. Label a "
        "few hundred, measure, and train again with them if the scores fell."
    ),
}


def drift_page(d: Drift) -> str:
    """Return the whole report: verdict, aspects with reasons, their charts, new words."""
    summary = f"{d.verdict.capitalize()}. {_DO[d.verdict]}"
    facts = (
        f"{d.articles:,} articles of {d.source}, compared with the {d.reference_articles:,} held-out "
        f"articles of {d.model}. {d.truncated:,} were longer than the model reads."
    )
    charts = [page.picture(_chart(a), f"a{i}") for i, a in enumerate(d.aspects)]
    return page.page(
        f"Drift: {d.verdict}",
        f"<p><b>{summary}</b></p>",
        page.note(facts),
        page.table(
            ["aspect", "index", "95 %", "verdict", "why"],
            [_row(a) for a in d.aspects],
        ),
        page.note(
            "The index is the population stability index of the shares below, without the share that "
            f"chance gives a batch of this size. Watch: {WATCH} or more and above 0 with 95 % "
            f"confidence. Drift: {DRIFT} or more and above {WATCH} with 95 % confidence."
        ),
        page.heading("Shares of articles, at training (grey) and now (blue)"),
        *charts,
        page.heading("Words that the batch has more often than training"),
        _words(d),
    )


def _row(a: Aspect) -> list[str]:
    low, high = a.interval
    why = a.reason.partition("), ")[2]  # the index has columns of its own here
    return [a.name, f"{a.psi:.2f}", f"{low:.2f} to {high:.2f}", a.verdict, why]


def _chart(a: Aspect) -> Figure:
    n = len(a.bins)
    figure = Figure(figsize=(6.4, 0.3 * n + 1.0), layout="constrained")
    axes = figure.subplots()
    y = range(n - 1, -1, -1)
    axes.barh([i + 0.2 for i in y], a.before, height=0.38, color=_GREY)
    axes.barh([i - 0.2 for i in y], a.now, height=0.38, color=_BLUE)
    axes.set_yticks(list(y), a.bins, fontsize=8)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.set_title(f"{a.name}: {a.verdict}", fontsize=10)
    return figure


def _words(d: Drift) -> str:
    rows = [[w.word, f"{w.now:.1%}", f"{w.before:.1%}", f"{w.z:.1f}"] for w in d.words]
    head = ["word", "articles now", "training articles", "z"]
    return page.table(head, rows) + page.note(
        "z: log odds ratio in standard errors. In any batch some words stand over 3; what a company "
        "did this week is no drift, a list of words of another trade is."
    )
