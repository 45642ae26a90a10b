"""Print how much a random split would flatter the scores: python scripts/leak_report.py --help."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from presseco.config import read_config
from presseco.corpus import article_files, clean, read_all
from presseco.data import for_source
from presseco.errors import PressecoError
from presseco.files import write_block, write_text
from presseco.leak import inflation, table
from presseco.source import read_source
from presseco.split import story_groups
from presseco.taxonomy import read_taxonomy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="configs/experiment/camembert-mini.yaml")
    parser.add_argument("--source", help="a source file that `presseco data` has collected")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", default="build/leak_report.json")
    args = parser.parse_args()
    try:
        report(args)
    except PressecoError as e:
        print(f"leak_report: {e}", file=sys.stderr)
        return 1
    return 0


def report(args: argparse.Namespace) -> None:
    config = read_config(args.experiment, args.set)
    if args.source:
        config = for_source(config, read_source(args.source))
    taxonomy = read_taxonomy(config.path(config.corpus.taxonomy))
    # Before anything is left out: a random split would use all articles.
    articles = [clean(a, config) for a in read_all(config, taxonomy, article_files(config))]
    stories = story_groups(articles, config.corpus.near_duplicate)
    rows = [inflation(articles, stories, task, config.seed) for task in taxonomy.names]
    print(table(rows), end="")
    if not args.source:  # our own articles: the table of the guide
        write_block(config.path("docs/data.md"), "leak", table(rows))
    write_text(config.path(args.output), json.dumps([asdict(r) for r in rows], indent=1))
    print(f"{len(articles):,} articles, 3 folds, macro-F1; in {config.path(args.output)}")


if __name__ == "__main__":
    sys.exit(main())
