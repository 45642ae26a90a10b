"""Measure the stage "business or not" on our articles and on texts that are not business news.

python scripts/business_report.py [--lexicon configs/business.yaml] [--misses 10]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from presseco.business import Lexicon, precision_recall, read_lexicon
from presseco.config import read_config
from presseco.datasheet import BY_SUBJECT
from presseco.errors import PressecoError
from presseco.files import write_block
from presseco.language import identify

ROOT = Path(__file__).resolve().parent.parent
#: Writers whose articles came after the lexicon was last changed, beside the held-out ones.
_LATER = ("BE", *BY_SUBJECT)


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
    business, other = texts()
    lines = [
        "| texts | business | other | recall | other let through | precision at 1:1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for part, name in (("tune", "tuned on"), ("held", "held out (other writers, other texts)")):
        yes, no = business[part], other[part]
        precision, recall = precision_recall(lexicon, yes, no)
        let = sum(lexicon.judge(t).score >= lexicon.threshold for t in no)
        lines.append(
            f"| {name} | {len(yes)} | {len(no)} | {recall:.3f} | {let} | {precision:.3f} |"
        )
        show([(t, True) for t in yes] + [(t, False) for t in no], lexicon, misses)
    print("\n".join(lines))
    write_block(ROOT / "docs" / "data.md", "business", "\n".join(lines))
    print(f"threshold {lexicon.threshold}, {lexicon.size} terms, in {path}")


def show(texts: list[tuple[str, bool]], lexicon: Lexicon, misses: int) -> None:
    for text, wanted in texts:
        verdict = lexicon.judge(text)
        if misses and (verdict.score >= lexicon.threshold) != wanted:
            misses -= 1
            print(f"  {verdict.score:5.2f} {text[:70]!r} {', '.join(verdict.terms)}")


def texts() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return business texts and others, by part: what the lexicon was tuned on, and held out.

    Tuned on: the training writers of that time, half of the small set, every second text of the first
    writer of out-of-domain texts. Those of other languages are left to the stage before.
    """
    corpus = read_config(ROOT / "configs/experiment/camembert-mini.yaml").corpus
    unseen = {*corpus.validation_writers, *corpus.test_writers, *_LATER}
    business: dict[str, list[str]] = {"tune": [], "held": []}
    other: dict[str, list[str]] = {"tune": [], "held": []}
    for row in lines(ROOT / "tests" / "data" / "not_business.jsonl"):
        other[row["part"]].append(row["text"])
    for path in sorted((ROOT / "data" / "articles").glob("*.jsonl")):
        for number, row in enumerate(lines(path)):
            if not row.get("out_of_domain"):
                business["held" if row["writer"] in unseen else "tune"].append(row["text"])
            elif identify(row["text"])[0] == "fr":
                seen = path.name == "hors-sujet-HSA.jsonl" and number % 2 == 0
                other["tune" if seen else "held"].append(row["text"])
    return business, other


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    sys.exit(main())
