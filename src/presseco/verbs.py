"""What each verb of the command line does: a function of the parsed arguments.

Each imports what it needs when it runs, so that `presseco --help` and the small verbs start at once.
"""

from __future__ import annotations

import argparse
import os
import sys

from presseco.errors import NO


def process_count() -> int:
    """Return how many processes torchrun or accelerate started for this command."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def data_verb(args: argparse.Namespace) -> None:
    from presseco.data import data

    data(
        args.experiment,
        args.set,
        source=args.source,
        online=args.online,
        workers=args.workers,
        push=args.push,
    )


def label_verb(args: argparse.Namespace) -> None:
    from presseco.label import label

    label(
        args.experiment,
        args.set,
        source=args.source,
        labelling=args.labelling,
        online=args.online,
    )


def train_verb(args: argparse.Namespace) -> None:
    from presseco.experiments import read_experiments

    # Read when the hub client is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    read_experiments(args.experiments, args.set)  # mistakes are told before the slow imports
    if process_count() > 1:
        from presseco.processes import train_together as train
    else:
        from presseco.train import train  # type: ignore[assignment]
    train(args.experiments, args.set)


def annotate_verb(args: argparse.Namespace) -> None:
    from presseco.annotate import annotate
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)
    annotate(config, args.articles, args.model, args.output, args.n)


def adjudicate_verb(args: argparse.Namespace) -> None:
    from presseco.annotate import adjudicate
    from presseco.config import read_config

    adjudicate(read_config(args.experiment, args.set), args.exports, args.articles, args.output)


def audit_verb(args: argparse.Namespace) -> None:
    from presseco.annotate import audit
    from presseco.config import read_config

    audit(read_config(args.experiment, args.set), args.articles, args.output)


def tune_verb(args: argparse.Namespace) -> None:
    from presseco.tune import tune

    print(f"best settings in {tune(args.experiment, args.set, args.trials)}")


def curve_verb(args: argparse.Namespace) -> None:
    from presseco.curve import learning_curve

    print(f"points in {learning_curve(args.experiments, args.set, args.sizes, args.seeds)}")


def ablate_verb(args: argparse.Namespace) -> None:
    from presseco.ablate import ablate

    table = ablate(args.file, args.set, seeds=args.seeds, size=args.size, only=args.only)
    print(f"table in {table}, points in benchmarks/ablation.json")


def adapt_verb(args: argparse.Namespace) -> None:
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


def compare_verb(args: argparse.Namespace) -> int:
    from presseco.compare import run_compare
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)
    return run_compare(config.root, args.a, args.b, config.tracking.experiment)


def promote_verb(args: argparse.Namespace) -> int:
    from rich.console import Console

    from presseco.config import read_config
    from presseco.promote import promote

    config = read_config(args.experiment, args.set)
    return 0 if promote(config, args.model, args.version, Console()) else NO


def reproduce_verb(args: argparse.Namespace) -> int:
    from presseco.config import read_config

    config = read_config(args.experiment, args.set)  # mistakes are told before the slow imports
    from presseco.reproduce import run_reproduce

    return run_reproduce(config, args.run_id)


def sync_verb(args: argparse.Namespace) -> None:
    from presseco.config import read_config
    from presseco.spool import sync

    print(sync(read_config(args.experiment).root))


def robustness_verb(args: argparse.Namespace) -> None:
    from presseco.config import read_config
    from presseco.robustness import check_bundle

    cases = check_bundle(args.model, read_config(args.experiment, args.set))
    for c in cases:
        print(f"{c.kind:<11} {c.name:<26} {c.rate:6.1%}  n = {c.n}")
    print(f"{len(cases)} rates of {args.model}")


def serve_verb(args: argparse.Namespace) -> None:
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


def drift_verb(args: argparse.Namespace) -> int:
    from presseco.drift import drift, exit_code

    found = drift(args.model, args.input, args.output, precision=args.precision)
    for a in found.aspects:
        print(f"{a.verdict:<8} {a.name:<25} {a.reason}")
    where = args.output / "drift.html"
    print(f"{found.verdict} in {found.articles:,} articles, report in {where}")
    return exit_code(found.verdict, args.fail_on)


def cascade_verb(args: argparse.Namespace) -> None:
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


def predict_verb(args: argparse.Namespace) -> None:
    from presseco.predict import predict_file

    n = predict_file(
        args.model, args.input, args.output, precision=args.precision, cascade=args.cascade
    )
    print(f"{n:,} articles classified in {args.output}")
