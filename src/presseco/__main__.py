"""The command line: `presseco <verb>` or `python -m presseco <verb>`; `make` has most verbs too."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from presseco import __version__
from presseco.errors import NO, PressecoError

_DEFAULT = tuple(f"configs/experiment/{n}.yaml" for n in ("baseline", "frozen", "camembert-mini"))
#: Extras that hold a package; all others train and collect.
_EXTRAS = {
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "pyarrow": "table",
    "cleanlab": "annotate",
    "matplotlib": "drift",
}
_MOST = "train,collect"
#: Verbs whose other packages an extra of their own holds.
_VERBS = {"predict": "cascade"}
#: Fewest tokens of a block to adapt to: 8 of an article, with `<s>` and `</s>`.
_BLOCK = 10
#: The disk refuses: full, over quota, over the file size limit, read-only, not ours.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors a user can act on are one line on stderr and exit code 1."""
    args = _parser().parse_args(argv)
    if _processes() > 1 and args.verb != "train":
        print(f"presseco {args.verb}: runs in one process, without torchrun", file=sys.stderr)
        return 1
    try:
        code: int | None = args.run(args)
    except PressecoError as e:
        print(f"presseco {args.verb}: {e}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as e:
        name = (e.name or "").split(".")[0]
        if name == "presseco":
            raise
        extra = _EXTRAS.get(name) or _VERBS.get(args.verb, _MOST)
        print(
            f"presseco {args.verb}: needs the package {name!r}. "
            f"Install what this verb needs: pip install 'presseco[{extra}]'",
            file=sys.stderr,
        )
        return 1
    except OSError as e:
        if e.errno not in _DISK:
            raise
        where = f"{e.filename}: " if e.filename else ""
        print(
            f"presseco {args.verb}: {where}{e.strerror or e}. Check free space and permissions.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"presseco {args.verb}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="presseco", description=__doc__)
    parser.add_argument("--version", action="version", version=f"presseco {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)

    data = verbs.add_parser("data", help="build the labelled corpus, ours or from your own press")
    data.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    data.add_argument("--source", help="source file (YAML), such as configs/source/folder.yaml")
    data.add_argument("--online", action="store_true", help="let feeds and the hub be read")
    data.add_argument("--workers", type=int, help="processes (default: one a core)")
    data.add_argument("--push", metavar="OWNER/NAME", help="push the corpus to the hub, private")
    _add_overrides(data)
    data.set_defaults(run=_data)

    label = verbs.add_parser("label", help="weak labels from several sources, and how good each is")
    label.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    label.add_argument("--source", help="source file (YAML) that `presseco data` has collected")
    label.add_argument("--labelling", help="labelling file (default: configs/labelling.yaml)")
    label.add_argument("--online", action="store_true", help="let a language model be asked")
    _add_overrides(label)
    label.set_defaults(run=_label)

    train = verbs.add_parser("train", help="train, compare in MLflow, register, export")
    train.add_argument("experiments", nargs="*", default=list(_DEFAULT), help="experiment files")
    _add_overrides(train)
    train.set_defaults(run=_train)

    predict = verbs.add_parser("predict", help="classify a file: JSON Lines, CSV, TSV or parquet")
    predict.add_argument("--model", required=True, help="bundle folder, runs:/... or models:/...")
    predict.add_argument("--input", required=True, type=Path, help="rows with id, text, title?")
    predict.add_argument("--output", required=True, type=Path, help="file to write")
    predict.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    predict.add_argument("--cascade", type=Path, metavar="BASELINE", help="it answers what is easy")
    predict.set_defaults(run=_predict)

    cascade = verbs.add_parser("cascade", help="fit what the baseline may answer before CamemBERT")
    cascade.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    cascade.add_argument("--baseline", type=Path, default=Path("dist/baseline"), help="its folder")
    cascade.add_argument("--other-corpus", action="store_true", help="models of another corpus")
    cascade.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(cascade)
    cascade.set_defaults(run=_cascade)

    serve = verbs.add_parser("serve", help="answer over HTTP (docs/serving.md)")
    serve.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from outside")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    serve.add_argument("--threads", type=int, default=0, help="cores a prediction uses (0: all)")
    serve.add_argument("--workers", type=int, default=1, help="predictions at once")
    serve.add_argument("--waiting", type=int, default=32, help="more in line; over that, 503")
    serve.add_argument("--timeout", type=float, default=10.0, help="seconds until a 504")
    serve.set_defaults(run=_serve)

    drift = verbs.add_parser("drift", help="new articles against those of training: HTML report")
    drift.add_argument("--model", default="dist/camembert", help="bundle folder or models:/...")
    drift.add_argument("--input", required=True, type=Path, help="rows with id, text, title?")
    drift.add_argument("--output", type=Path, default=Path("build/drift"), help="folder to write")
    drift.add_argument("--precision", default="auto", choices=("auto", "fp32", "int8"))
    drift.add_argument(
        "--fail-on", default="drift", choices=("watch", "drift", "never"), help="exit with code 3"
    )
    drift.set_defaults(run=_drift)

    annotate = verbs.add_parser("annotate", help="articles worth labelling, ready for Label Studio")
    annotate.add_argument("--articles", required=True, type=Path, help="unlabelled, JSON Lines")
    annotate.add_argument("--model", help="bundle that proposes labels and says what to ask")
    annotate.add_argument("--n", type=int, default=100, help="articles to ask for")
    annotate.add_argument("--output", type=Path, default=Path("build/annotate"))
    _add_experiment(annotate)
    annotate.set_defaults(run=_annotate)

    adjudicate = verbs.add_parser(
        "adjudicate", help="annotations of several people: what is settled"
    )
    adjudicate.add_argument("exports", nargs="+", type=Path, help="Label Studio JSON, or .jsonl")
    adjudicate.add_argument("--articles", type=Path, help="the articles, to write them labelled")
    adjudicate.add_argument("--output", type=Path, default=Path("build/annotate"))
    _add_experiment(adjudicate)
    adjudicate.set_defaults(run=_adjudicate)

    audit = verbs.add_parser("audit", help="labels that look wrong (cleanlab)")
    audit.add_argument("articles", nargs="*", type=Path, default=[Path("data/articles")])
    audit.add_argument("--output", type=Path, default=Path("build/audit.jsonl"))
    _add_experiment(audit)
    audit.set_defaults(run=_audit)

    tune = verbs.add_parser("tune", help="search for better settings (Optuna)")
    tune.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    tune.add_argument("--trials", type=int, default=10, help="trials to add to the study")
    _add_overrides(tune)
    tune.set_defaults(run=_tune)

    curve = verbs.add_parser("curve", help="learning curves of several models")
    curve.add_argument("experiments", nargs="*", default=list(_DEFAULT), help="experiment files")
    curve.add_argument(
        "--sizes", type=_at_least(0), nargs="+", default=[100, 300, 1000, 0], help="0: all"
    )
    curve.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    _add_overrides(curve)
    curve.set_defaults(run=_curve)

    ablate = verbs.add_parser("ablate", help="what each choice of the recipe is worth, over seeds")
    ablate.add_argument("--file", type=Path, default=Path("configs/ablation.yaml"))
    ablate.add_argument("--only", nargs="+", default=[], help="some differences of the file")
    ablate.add_argument("--size", type=_at_least(0), default=0, help="training articles (0: all)")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    _add_overrides(ablate)
    ablate.set_defaults(run=_ablate)

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
    adapt.set_defaults(run=_adapt)

    compare = verbs.add_parser(
        "compare", help="two or more runs: differences, significance, report"
    )
    compare.add_argument("--a", help="run id, run name or models:/name@alias (default: baseline)")
    compare.add_argument(
        "--b", nargs="+", default=[], help="the runs to judge (default: the last CamemBERT)"
    )
    compare.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(compare)
    compare.set_defaults(run=_compare)

    promote = verbs.add_parser("promote", help="make a version champion if it passes the gate")
    promote.add_argument("--model", default="presseco", help="registered model")
    promote.add_argument("--version", help="default: the newest")
    promote.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(promote)
    promote.set_defaults(run=_promote)

    reproduce = verbs.add_parser("reproduce", help="train a run again and compare its metrics")
    reproduce.add_argument("--run", required=True, dest="run_id", help="run id")
    reproduce.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(reproduce)
    reproduce.set_defaults(run=_reproduce)

    sync = verbs.add_parser("sync", help="send runs that wait for their tracking server")
    sync.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    sync.set_defaults(run=_sync)

    robustness = verbs.add_parser("robustness", help="behaviour tests of an exported model")
    robustness.add_argument("--model", default="dist/camembert", help="bundle folder or URI")
    robustness.add_argument("--experiment", default=_DEFAULT[-1], help="experiment file (YAML)")
    _add_overrides(robustness)
    robustness.set_defaults(run=_robustness)
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


def _data(args: argparse.Namespace) -> None:
    from presseco.data import data

    data(
        args.experiment,
        args.set,
        source=args.source,
        online=args.online,
        workers=args.workers,
        push=args.push,
    )


def _processes() -> int:
    """Return how many processes torchrun or accelerate started for this command."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def _label(args: argparse.Namespace) -> None:
    from presseco.label import label

    label(
        args.experiment,
        args.set,
        source=args.source,
        labelling=args.labelling,
        online=args.online,
    )


def _train(args: argparse.Namespace) -> None:
    from presseco.experiments import read_experiments

    # Read when the hub client is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    read_experiments(args.experiments, args.set)  # mistakes are told before the slow imports
    if _processes() > 1:
        from presseco.processes import train_together as train
    else:
        from presseco.train import train  # type: ignore[assignment]
    train(args.experiments, args.set)


def _annotate(args: argparse.Namespace) -> None:
    from presseco.annotate import annotate
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)
    annotate(config, args.articles, args.model, args.output, args.n)


def _adjudicate(args: argparse.Namespace) -> None:
    from presseco.annotate import adjudicate
    from presseco.config import read_config

    adjudicate(read_config(args.experiment, args.set), args.exports, args.articles, args.output)


def _audit(args: argparse.Namespace) -> None:
    from presseco.annotate import audit
    from presseco.config import read_config

    audit(read_config(args.experiment, args.set), args.articles, args.output)


def _tune(args: argparse.Namespace) -> None:
    from presseco.tune import tune

    print(f"best settings in {tune(args.experiment, args.set, args.trials)}")


def _curve(args: argparse.Namespace) -> None:
    from presseco.curve import learning_curve

    print(f"points in {learning_curve(args.experiments, args.set, args.sizes, args.seeds)}")


def _ablate(args: argparse.Namespace) -> None:
    from presseco.ablate import ablate

    table = ablate(args.file, args.set, seeds=args.seeds, size=args.size, only=args.only)
    print(f"table in {table}, points in benchmarks/ablation.json")


def _adapt(args: argparse.Namespace) -> None:
    from presseco.adapt import Settings, adapt
    from presseco.config import read_config

    settings = Settings(
        epochs=args.epochs,
        rate=args.rate,
        batch_size=args.batch,
        max_tokens=args.tokens,
        seed=args.seed,
    )
    done = adapt(read_config(args.experiment, args.set), args.texts, args.output, settings)
    print(
        f"held-out loss a hidden token {done.before:.3f} -> {done.after:.3f} nats, {done.texts:,} "
        f"texts; encoder in {done.folder}: --set camembert.encoder={done.folder}"
    )


def _compare(args: argparse.Namespace) -> int:
    from presseco.compare import run_compare
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)
    return run_compare(config.root, args.a, args.b, config.tracking.experiment)


def _promote(args: argparse.Namespace) -> int:
    from rich.console import Console

    from presseco.config import read_config
    from presseco.promote import promote

    config = read_config(args.experiment, args.set)
    return 0 if promote(config, args.model, args.version, Console()) else NO


def _reproduce(args: argparse.Namespace) -> int:
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)  # mistakes are told before the slow imports
    from presseco.reproduce import run_reproduce

    return run_reproduce(config, args.run_id)


def _sync(args: argparse.Namespace) -> None:
    from presseco.config import read_config
    from presseco.spool import sync

    print(sync(read_config(args.experiment).root))


def _robustness(args: argparse.Namespace) -> None:
    from presseco.config import read_config
    from presseco.robustness import check_bundle

    cases = check_bundle(args.model, read_config(args.experiment, args.set))
    for c in cases:
        print(f"{c.kind:<11} {c.name:<26} {c.rate:6.1%}  n = {c.n}")
    print(f"{len(cases)} rates of {args.model}")


def _serve(args: argparse.Namespace) -> None:
    from presseco.serve import Limits, serve

    limits = Limits(workers=args.workers, waiting=args.waiting, seconds=args.timeout)
    serve(
        args.model,
        args.host,
        args.port,
        precision=args.precision,
        threads=args.threads,
        limits=limits,
    )


def _drift(args: argparse.Namespace) -> int:
    from presseco.drift import drift, exit_code

    found = drift(args.model, args.input, args.output, precision=args.precision)
    for a in found.aspects:
        print(f"{a.verdict:<8} {a.name:<25} {a.reason}")
    where = args.output / "drift.html"
    print(f"{found.verdict} in {found.articles:,} articles, report in {where}")
    return exit_code(found.verdict, args.fail_on)


def _cascade(args: argparse.Namespace) -> None:
    from presseco.cascade import MARGIN, fit_cascade

    cut = fit_cascade(
        args.model, args.baseline, args.experiment, args.set, other_corpus=args.other_corpus
    )
    for task, before in cut.camembert.items():
        print(f"{task:<12} macro-F1 {before:.3f} alone, {cut.cascade[task]:.3f} in the cascade")
    print(
        f"the baseline answers {cut.deflected:.1%} of the validation articles, no task loses more "
        f"than {MARGIN}; in {args.baseline}/cascade.json"
    )


def _predict(args: argparse.Namespace) -> None:
    from presseco.predict import predict_file

    n = predict_file(
        args.model, args.input, args.output, precision=args.precision, cascade=args.cascade
    )
    print(f"{n:,} articles classified in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
