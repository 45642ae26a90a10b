"""The model card, filled from the run: nothing in it is typed by hand."""

from __future__ import annotations

from typing import Any

from presseco.evaluate import TaskScore
from presseco.taxonomy import Taxonomy

_TEXT = "Alibaba va investir 380 milliards de yuans dans le cloud"
_BUNDLE_USE = (
    "```python",
    "from presseco import Classifier",
    "",
    'model = Classifier.load("this folder")',
    f'for p in model.predict(["{_TEXT}"]):',
    '    print(p["sector"].label, p["event_type"].label, p["sentiment"].label)',
    "```",
)
_BASELINE_USE = (
    "TF-IDF and logistic regression, to compare with: `model.skops` is not a bundle, so `presseco",
    "predict` and `presseco serve` do not load it. MLflow does:",
    "",
    "```python",
    "import mlflow",
    "",
    'model = mlflow.pyfunc.load_model("models:/presseco-baseline/1")',
    f'print(model.predict(["{_TEXT}"]))',
    "```",
)


def model_card(
    name: str,
    scores: list[TaskScore],
    taxonomy: Taxonomy,
    lineage: dict[str, Any],
    calibration: Any,
) -> str:
    """Return the card as Markdown with the header that the Hugging Face hub reads.

    `lineage["encoder"]` is "none" for the baseline, which is no bundle and is loaded through MLflow.
    """
    baseline = lineage["encoder"] == "none"
    tags = "scikit-learn, skops" if baseline else "camembert, onnx"
    lines = [
        "---",
        "language: fr",
        "license: apache-2.0",
        "pipeline_tag: text-classification",
        f"tags: [business-news, {tags}]",
        "---",
        f"# presseco-{name}",
        "",
        "Sorts French business news by "
        + ", ".join(f"{t.name} ({len(t.labels)} labels)" for t in taxonomy.tasks)
        + ".",
        "",
        "## Scores on the test split",
        "",
        "| task | n | macro-F1 | 95 % interval | accuracy | ECE | temperature | answers from |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for s in scores:
        low, high = s.interval
        lines.append(
            f"| {s.task} | {s.n} | {s.macro_f1:.3f} | {low:.3f}–{high:.3f} | {s.accuracy:.3f} | "
            f"{s.ece:.3f} | {calibration['temperatures'][s.task]:.2f} | "
            f"{calibration['thresholds'][s.task]:.2f} |"
        )
    lines += [
        "",
        "Intervals: 1,000 bootstrap resamples of the test articles. 'answers from' is the probability",
        "under which the model abstains: the risk target of 5 % wrong answers, fitted on validation.",
        "Test articles come from writers, companies and stories that training never saw; they are",
        "prose written for this project, not press. Expect lower scores on your own press, and",
        "measure them on a few hundred labelled articles.",
        "",
        "## Lineage",
        "",
        *[f"- {k}: `{v}`" for k, v in lineage.items()],
        "",
        "## Use",
        "",
        *(_BASELINE_USE if baseline else _BUNDLE_USE),
        "",
        "Not meant for: investment decisions, texts that are not French business news (they are",
        "classified anyway; look at `abstained`), or judging people.",
    ]
    return "\n".join(lines) + "\n"
