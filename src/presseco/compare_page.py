"""The HTML report of a comparison: one self-contained page for a browser or MLflow's artifact pane."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from presseco import page
from presseco.compare import COST, Comparison
from presseco.figures import change_figure, two_reliabilities_figure
from presseco.table import HUMAN

#: Changed answers shown a task and direction; the rest is in the runs' tables of answers.
_EXAMPLES = 40
_CALIBRATION = {
    "ece": "calibration error (ECE)",
    "coverage": "share answered at the 5 % risk threshold",
    "risk": "wrong among answered",
}

_ROBUSTNESS_NOTE = (
    "Shares of behaviour tests passed. Of headlines alone: the share answered, and the share of these "
    "that is right."
)


def comparison_page(c: Comparison) -> str:
    """Return the whole report: verdict, labels, calibration, robustness, cost, changed answers."""
    parts = [
        f"<p>A: {escape(c.a.name)}<br>B: {escape(c.b.name)}</p>",
        f"<p><b>{escape(c.summary)}.</b></p>",
        _differences(c),
        page.heading("Labels"),
        page.picture(change_figure(c.per_class), "change"),
        page.folded("F1 of every label, worst change first", _labels(c)),
        *_calibration(c),
        *_section(c, "Robustness", "robustness.", _ROBUSTNESS_NOTE),
        page.heading("Cost"),
        _side_by_side(c, COST),
        *_flips(c),
        page.heading("Settings that differ"),
        _params(c),
    ]
    return page.page(f"{c.b.model} against {c.a.model}", *parts)


def _differences(c: Comparison) -> str:
    rows = [
        [
            d.task,
            d.n,
            f"{d.a:.3f}",
            f"{d.b:.3f}",
            f"{d.value:+.3f} ({d.interval[0]:+.3f} to {d.interval[1]:+.3f})",
            f"{d.p:.3f}",
            f"{c.kappa[d.task][0]:.2f}",
            f"{c.kappa[d.task][1]:.2f}",
            f"{HUMAN[d.task]:.2f}" if d.task in HUMAN else "",
            d.verdict,
        ]
        for d in c.differences
    ]
    head = ["task", "n", "A", "B", "B − A (95 %)", "p", "κ A", "κ B", "κ humans", "verdict"]
    return page.table(head, rows) + page.note(
        "A and B: macro-F1 on the test texts that both answered. B − A with its paired bootstrap "
        "interval; the verdict is 'better' or 'worse' only where the interval excludes 0. p: "
        "approximate randomisation, two-sided. κ A and κ B: Cohen's kappa with the true labels, "
        "to be read beside κ humans: how far two annotators of real press agree under this "
        "guideline (257 documents). Other texts than these: an orientation, not a bound."
    )


def _labels(c: Comparison) -> str:
    rows = [
        [r["task"], r["label"], r["n"], f"{r['a']:.3f}", f"{r['b']:.3f}", f"{r['b'] - r['a']:+.3f}"]
        for r in sorted(c.per_class, key=lambda r: float(r["b"] - r["a"]))
    ]
    return page.table(["task", "label", "n", "F1 A", "F1 B", "change"], rows)


def _calibration(c: Comparison) -> list[str]:
    parts = [page.heading("Calibration and abstention")]
    if c.a.confidence and c.b.confidence:
        answers = {t: [run.answers(t)[1:] for run in (c.a, c.b)] for t in c.a.truth}
        parts.append(page.picture(two_reliabilities_figure(answers), "reliability"))
    names = {
        f"test.{t}.{key}": f"{t}: {words}" for t in c.a.truth for key, words in _CALIBRATION.items()
    }
    names["test.outside_auroc"] = "out-of-domain texts told apart (AUROC)"
    return [*parts, _side_by_side(c, names)]


def _section(c: Comparison, title: str, prefix: str, note: str) -> list[str]:
    keys = [k for k in sorted({*c.a.metrics, *c.b.metrics}) if k.startswith(prefix)]
    if not keys:
        text = "Not measured for either run: make robustness measures dist/camembert."
        return [page.heading(title), page.note(text)]
    names = {k: k.removeprefix(prefix).replace(".", ", ").replace("_", " ") for k in keys}
    return [page.heading(title), _side_by_side(c, names), page.note(note)]


def _side_by_side(c: Comparison, names: Mapping[str, str]) -> str:
    rows = []
    for key, words in names.items():
        a, b = c.a.metrics.get(key), c.b.metrics.get(key)
        if a is not None or b is not None:
            rows.append([words, *("" if v is None else _figure(v) for v in (a, b))])
    return page.table(["", "A", "B"], rows) if rows else page.note("Not measured.")


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1.5 else f"{value:.1f}"


def _flips(c: Comparison) -> list[str]:
    won = sum(f["change"] == "won" for f in c.flipped)
    title = f"Answers that changed: {won} won, {len(c.flipped) - won} lost by B"
    parts = [page.heading(title)]
    for task in c.a.truth:
        for change, words in (
            ("lost", "right in A, wrong in B"),
            ("won", "wrong in A, right in B"),
        ):
            rows = [f for f in c.flipped if f["task"] == task and f["change"] == change]
            if rows:
                shown = [[f["text"], f["truth"], f["a"], f["b"], f["id"]] for f in rows[:_EXAMPLES]]
                more = f", {_EXAMPLES} shown" if len(rows) > _EXAMPLES else ""
                table = page.table(["text", "true", "A", "B", "article"], shown)
                parts.append(page.folded(f"{task}: {words} ({len(rows)}{more})", table))
    return parts


def _params(c: Comparison) -> str:
    keys = list(dict.fromkeys([*c.a.params, *c.b.params]))
    rows = [[k, c.a.params.get(k, ""), c.b.params.get(k, "")] for k in keys]
    rows = [r for r in rows if r[1] != r[2]]
    return page.table(["setting", "A", "B"], rows) if rows else page.note("None.")
