"""Measure the stage "business or not" on our articles and on texts that are not business news.

python scripts/business_report.py [--lexicon configs/business.yaml] [--misses 10]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from presseco.business import Lexicon, precision_recall, read_lexicon
from presseco.errors import PressecoError

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lexicon", default=str(ROOT / "configs" / "business.yaml"))
    parser.add_argument("--misses", type=int, default=0, help="show so many wrong verdicts a row")
    args = parser.parse_args()
    try:
        report(args.lexicon, args.misses)
    except PressecoError as e:
        print(f"business_report: {e}", file=sys.stderr)
        return 1
    return 0


def report(path: str, misses: int) -> None:
    lexicon = read_lexicon(path)
    business, outside = our_articles()
    small = lines(ROOT / "tests" / "data" / "not_business.jsonl")
    sets = [
        ("tuned on", business["tune"], [r["text"] for r in small if r["part"] == "tune"]),
        ("held out", business["held"], [r["text"] for r in small if r["part"] == "held"]),
    ]
    if outside:
        sets.append(("held out, our hors_sujet", business["held"], outside))
    print("| texts | business | other | recall | other let through | precision at 1:1 |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, yes, no in sets:
        precision, recall = precision_recall(lexicon, yes, no)
        let = sum(lexicon.judge(t).score >= lexicon.threshold for t in no)
        print(f"| {name} | {len(yes)} | {len(no)} | {recall:.3f} | {let} | {precision:.3f} |")
        show([(t, True) for t in yes] + [(t, False) for t in no], lexicon, misses)
    print(f"threshold {lexicon.threshold}, {lexicon.size} terms, in {path}")


def show(texts: list[tuple[str, bool]], lexicon: Lexicon, misses: int) -> None:
    for text, wanted in texts:
        verdict = lexicon.judge(text)
        if misses and (verdict.score >= lexicon.threshold) != wanted:
            misses -= 1
            print(f"  {verdict.score:5.2f} {text[:70]!r} {', '.join(verdict.terms)}")


def our_articles() -> tuple[dict[str, list[str]], list[str]]:
    """Return the business articles by part, and the texts that are out of domain.

    The lexicon was tuned on the training writers; those of validation and test (T*, V*) are held out.
    """
    business: dict[str, list[str]] = {"tune": [], "held": []}
    outside = []
    for path in sorted((ROOT / "data" / "articles").glob("*.jsonl")):
        for row in lines(path):
            if row.get("out_of_domain") or row.get("sector") == "hors_sujet":
                outside.append(row["text"])
            else:
                business["held" if path.name[0] in "TV" else "tune"].append(row["text"])
    return business, outside


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
