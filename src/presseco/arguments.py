"""The verbs of the command line and what each takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from presseco import __version__
from presseco.verbs import (
    ablate_verb,
    adapt_verb,
    adjudicate_verb,
    annotate_verb,
    audit_verb,
    cascade_verb,
    compare_verb,
    curve_verb,
    data_verb,
    drift_verb,
    label_verb,
    predict_verb,
    promote_verb,
    reproduce_verb,
    robustness_verb,
    serve_verb,
    sync_verb,
    train_verb,
    tune_verb,
)

_DEFAULT = tuple(f"configs/experiment/{n}.yaml" for n in ("baseline", "frozen", "camembert-mini"))
#: Fewest tokens of a block to adapt to: 8 of an article, with `<s>` and `</s>`.
_BLOCK = 10


def make_parser(about: str) -> argparse.ArgumentParser:
    """Return the parser; the parsed arguments' `run` is the verb's function."""
    parser = argparse.ArgumentParser(prog="presseco", description=about)
    parser.add_argument("--version", action="version", version=f"presseco {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)

    data = verbs.add_parser("data", help="build the labelled corpus, ours or from your own press")
    data.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    data.add_argument("--source", help="source file (YAML), such as configs/source/folder.yaml")
    data.add_argument("--online", action="store_true", help="let feeds and the hub be read")
    data.add_argument("--workers", type=int, help="processes (default: one a core)")
    data.add_argument("--push", metavar="OWNER/NAME", help="push the corpus to the hub, private")
    _add_overrides(data)
    data.set_defaults(run=data_verb)

    label = verbs.add_parser("label", help="weak labels from several sources, and how good each is")
    label.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    label.add_argument("--source", help="source file (YAML) that `presseco data` has collected")
    label.add_argument("--labelling", help="labelling file (default: configs/labelling.yaml)")
    label.add_argument("--online", action="store_true", help="let a language model be asked")
    _add_overrides(label)
    label.set_defaults(run=label_verb)

    train = verbs.add_parser("train", help="train, compare in MLflow, register, export")
    train.add_argument("experiments", nargs="*", default=list(_DEFAULT), help="experiment files")
    _add_overrides(train)
    train.set_defaults(run=train_verb)

    predict = verbs.add_parser("predict", help="classify a file: JSON Lines, CSV, TSV or parquet")
    predict.add_argument("--model", required=True, help="bundle folder, runs:/... or models:/...")
    predict.add_argument("--input", required=True, type=Path, help="rows with id, text, title?")
    predict.add_argument("--output", required=True, type=Path, help="file to write")
    predict.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    predict.add_argument("--cascade", type=Path, metavar="BASELINE", help="it answers what is easy")
    predict.set_defaults(run=predict_verb)

    cascade = verbs.add_parser("cascade", help="fit what the baseline may answer before CamemBERT")
    cascade.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    cascade.add_argument("--baseline", type=Path, default=Path("dist/baseline"), help="its folder")
    cascade.add_argument("--other-corpus", action="store_true", help="models of another corpus")
    _add_experiment(cascade)
    cascade.set_defaults(run=cascade_verb)

    serve = verbs.add_parser("serve", help="answer over HTTP (docs/serving.md)")
    serve.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from outside")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    serve.add_argument("--threads", type=int, default=0, help="cores a prediction uses (0: all)")
    serve.add_argument("--workers", type=int, default=1, help="predictions at once")
    serve.add_argument("--waiting", type=int, default=32, help="more in line; over that, 503")
    serve.add_argument("--timeout", type=float, default=10.0, help="seconds until a 504")
    serve.set_defaults(run=serve_verb)

    drift = verbs.add_parser("drift", help="new articles against those of training: HTML report")
    drift.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    drift.add_argument("--input", required=True, type=Path, help="rows with id, text, title?")
    drift.add_argument("--output", type=Path, default=Path("build/drift"), help="folder to write")
    drift.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    drift.add_argument(
        "--fail-on", default="drift", choices=("watch", "drift", "never"), help="exit with code 3"
    )
    drift.set_defaults(run=drift_verb)

    annotate = verbs.add_parser("annotate", help="articles worth labelling, ready for Label Studio")
    annotate.add_argument("--articles", required=True, type=Path, help="unlabelled, JSON Lines")
    annotate.add_argument("--model", help="bundle that proposes labels and says what to ask")
    annotate.add_argument("--n", type=int, default=100, help="articles to ask for")
    annotate.add_argument("--output", type=Path, default=Path("build/annotate"))
    _add_experiment(annotate)
    annotate.set_defaults(run=annotate_verb)

    adjudicate = verbs.add_parser(
        "adjudicate", help="annotations of several people: what is settled"
    )
    adjudicate.add_argument("exports", nargs="+", type=Path, help="Label Studio JSON, or .jsonl")
    adjudicate.add_argument("--articles", type=Path, help="the articles, to write them labelled")
    adjudicate.add_argument("--output", type=Path, default=Path("build/annotate"))
    _add_experiment(adjudicate)
    adjudicate.set_defaults(run=adjudicate_verb)

    audit = verbs.add_parser("audit", help="labels that look wrong (cleanlab)")
    audit.add_argument("articles", nargs="*", type=Path, default=[Path("data/articles")])
    audit.add_argument("--output", type=Path, default=Path("build/audit.jsonl"))
    _add_experiment(audit)
    audit.set_defaults(run=audit_verb)

    tune = verbs.add_parser("tune", help="search for better settings (Optuna)")
    tune.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    tune.add_argument("--trials", type=int, default=10, help="trials to add to the study")
    _add_overrides(tune)
    tune.set_defaults(run=tune_verb)

    curve = verbs.add_parser("curve", help="learning curves of several models")
    curve.add_argument("experiments", nargs="*", default=list(_DEFAULT), help="experiment files")
    curve.add_argument(
        "--sizes", type=_at_least(0), nargs="+", default=[100, 300, 1000, 0], help="0: all"
    )
    curve.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    _add_overrides(curve)
    curve.set_defaults(run=curve_verb)

    ablate = verbs.add_parser("ablate", help="what each choice of the recipe is worth, over seeds")
    ablate.add_argument("--file", type=Path, default=Path("configs/ablation.yaml"))
    ablate.add_argument("--only", nargs="+", default=[], help="some differences of the file")
    ablate.add_argument("--size", type=_at_least(0), default=0, help="training articles (0: all)")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    _add_overrides(ablate)
    ablate.set_defaults(run=ablate_verb)

    adapt = verbs.add_parser("adapt", help="go on pre-training the encoder on unlabelled articles")
    adapt.add_argument("--texts", required=True, type=Path, help="folder of articles")
    adapt.add_argument("--output", type=Path, default=Path("build/encoder-adapted"))
    adapt.add_argument("--experiment", default=_DEFAULT[-1], help="whose encoder (YAML)")
    adapt.add_argument("--epochs", type=_at_least(1), default=1)
    adapt.add_argument("--rate", type=float, default=1e-4, help="peak learning rate")
    adapt.add_argument("--tokens", type=_at_least(_BLOCK), default=256, help="a block, at most")
    adapt.add_argument("--batch", type=_at_least(1), default=32)
    adapt.add_argument("--seed", type=int, default=1)
    _add_overrides(adapt)
    adapt.set_defaults(run=adapt_verb)

    compare = verbs.add_parser(
        "compare", help="two or more runs: differences, significance, report"
    )
    compare.add_argument("--a", help="run id, run name or models:/name@alias (default: baseline)")
    compare.add_argument(
        "--b", nargs="+", default=[], help="the runs to judge (default: the last CamemBERT)"
    )
    _add_experiment(compare)
    compare.set_defaults(run=compare_verb)

    promote = verbs.add_parser("promote", help="make a version champion if it passes the gate")
    promote.add_argument("--model", default="presseco", help="registered model")
    promote.add_argument("--version", help="default: the newest")
    _add_experiment(promote)
    promote.set_defaults(run=promote_verb)

    reproduce = verbs.add_parser("reproduce", help="train a run again and compare its metrics")
    reproduce.add_argument("--run", required=True, dest="run_id", help="run id")
    _add_experiment(reproduce)
    reproduce.set_defaults(run=reproduce_verb)

    sync = verbs.add_parser("sync", help="send runs that wait for their tracking server")
    sync.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    sync.set_defaults(run=sync_verb)

    robustness = verbs.add_parser("robustness", help="behaviour tests of an exported model")
    robustness.add_argument("--model", default="dist/camembert", help="bundle folder or URI")
    _add_experiment(robustness)
    robustness.set_defaults(run=robustness_verb)
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    """Return an argument type: a whole number, not under `least`."""

    def whole(text: str) -> int:
        if not text.removeprefix("-").isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is under {least}")
        return int(text)

    return whole


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. camembert.epochs=2"
    )
