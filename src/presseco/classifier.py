"""Load an exported model and classify texts: numpy, onnxruntime and tokenizers, nothing else."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from presseco.bundle import Bundle, Task, read_bundle
from presseco.errors import BundleError
from presseco.text import prepare

log = logging.getLogger("presseco")

#: Largest difference of a golden logit that is accepted at load. fp32: float rounding between CPUs.
#: int8: float rounding that moves some values to the next integer (0.1 seen); a wrong kernel or
#: saturating products differ by far more.
TOLERANCE = {"fp32": 1e-3, "int8": 0.3}
#: Tokens run together, padding included: short texts gain from company, long ones do not.
BATCH_TOKENS = 256


@dataclass(frozen=True)
class Answer:
    """The answer to one task: the best label, its calibrated probability, and whether to trust it.

    `abstained` is true when `probability` is under the threshold that kept the error within the
    risk target on validation, or when the text has no letter or digit; the label is still the best
    guess. `probabilities` has every label.
    """

    label: str
    display: str
    probability: float
    abstained: bool
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """One text's answers by task name, with the version of the model that gave them.

    `truncated` says that the text was longer than the model reads and only its beginning counted.
    """

    answers: dict[str, Answer]
    truncated: bool
    model: str

    def __getitem__(self, task: str) -> Answer:
        return self.answers[task]

    def to_dict(self) -> dict[str, Any]:
        """Return `{"sector": {"label", "probability", "abstained"}, ...}`, ready for JSON."""
        return {
            name: {
                "label": a.label,
                "probability": round(a.probability, 4),
                "abstained": a.abstained,
            }
            for name, a in self.answers.items()
        }


class Classifier:
    """A loaded model. Safe to use from several threads at once."""

    def __init__(self, bundle: Bundle, *, precision: str = "auto", threads: int = 0) -> None:
        """Open `bundle` at `precision` (`fp32`, `int8`, or `auto`: int8 where it is exact here).

        `threads` is the number of cores that one call uses; 0: all that this process may use. One
        text is computed by all of them together; several texts by a core each, which on two cores
        gives twice the documents a second of cores that wait for each other.
        """
        if precision not in ("auto", "fp32", "int8"):
            raise ValueError(f"precision is {precision!r}; expected 'auto', 'fp32' or 'int8'")
        self.bundle = bundle
        self._threads = threads or _cores()
        self._alone: Any = None  # the session of one thread, made when first needed
        self._lock = threading.Lock()
        self._tokenizer = Tokenizer.from_file(str(bundle.path("tokenizer.json")))
        self._tokenizer.enable_truncation(max_length=bundle.max_tokens)
        self._tokenizer.no_padding()
        self._pad = int(self._tokenizer.token_to_id("<pad>") or 0)
        self._golden = _read_golden(bundle.path("golden.jsonl"))
        wanted = ["int8", "fp32"] if precision == "auto" else [precision]
        self.precision, self._session = self._open(wanted)

    @classmethod
    def load(cls, source: str | Path, *, precision: str = "auto", threads: int = 0) -> Classifier:
        """Load from a bundle folder, or from `models:/...` or `runs:/...` where mlflow is installed."""
        text = str(source)
        if text.startswith(("models:/", "runs:/")):
            from presseco.registry import fetch_bundle  # needs mlflow, which the runtime does not

            source = fetch_bundle(text)
        return cls(read_bundle(source), precision=precision, threads=threads)

    def predict(
        self, texts: Sequence[str], titles: Sequence[str | None] | None = None, *, batch: int = 32
    ) -> list[Prediction]:
        """Classify `texts` (with their `titles`, if given apart); the order is kept.

        Texts are run in batches of similar length. Raises `TypeError` on anything but strings.
        """
        if isinstance(texts, str):
            raise TypeError("predict takes a list of texts; got one string: write predict([text])")
        heads = list(titles) if titles is not None else [None] * len(texts)
        if len(heads) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(heads)} titles")
        for t in (*texts, *(h for h in heads if h is not None)):
            if not isinstance(t, str):
                raise TypeError(f"every text and title must be a str; got {type(t).__name__}")
        prepared = [prepare(t, h) for t, h in zip(texts, heads, strict=True)]
        encoded = self._tokenizer.encode_batch(prepared)
        logits = self._logits([e.ids for e in encoded], batch)
        return [
            self._prediction(row, bool(e.overflowing), blank=not any(map(str.isalnum, text)))
            for row, e, text in zip(logits, encoded, prepared, strict=True)
        ]

    def logits(self, texts: Iterable[str]) -> np.ndarray:
        """Return the raw flat logits of prepared texts, shape (texts, labels of all tasks)."""
        encoded = self._tokenizer.encode_batch([prepare(t) for t in texts])
        return self._logits([e.ids for e in encoded], 32)

    def _logits(self, ids: list[list[int]], batch: int, session: Any = None) -> np.ndarray:
        width = sum(len(t.labels) for t in self.bundle.tasks)
        out = np.zeros((len(ids), width), dtype=np.float32)
        groups = list(_batches([len(i) for i in ids], batch))

        def run(rows: list[int]) -> None:
            tokens = np.full((len(rows), len(ids[rows[-1]])), self._pad, dtype=np.int64)
            mask = np.zeros_like(tokens)
            for j, i in enumerate(rows):
                tokens[j, : len(ids[i])] = ids[i]
                mask[j, : len(ids[i])] = 1
            out[rows] = session.run(None, {"input_ids": tokens, "attention_mask": mask})[0]

        if session is None and self._threads > 1 and len(groups) > 1:
            session = self._one_thread()
            # The longest first: no core is left with a long one at the end.
            with ThreadPoolExecutor(min(self._threads, len(groups)), "presseco") as pool:
                list(pool.map(run, reversed(groups)))
        else:
            session = session or self._session
            for rows in groups:
                run(rows)
        return out

    def _one_thread(self) -> Any:
        with self._lock:
            if self._alone is None:
                self._alone = self._new_session(self.precision, 1)
            return self._alone

    def _prediction(self, logits: np.ndarray, truncated: bool, *, blank: bool) -> Prediction:
        answers, start = {}, 0
        for task in self.bundle.tasks:
            answers[task.name] = _answer(task, logits[start : start + len(task.labels)], blank)
            start += len(task.labels)
        return Prediction(answers, truncated, f"{self.bundle.name}@{self.bundle.version}")

    def _open(self, wanted: list[str]) -> tuple[str, Any]:
        """Open the first of the wanted models whose golden outputs come out right on this CPU."""
        present = [p for p in wanted if p in self.bundle.models]
        if not present:
            raise BundleError(
                f"{self.bundle.folder}: has no {' or '.join(wanted)} model; it has "
                f"{', '.join(self.bundle.models) or 'none'}. Ask for one that it has, or for 'auto'."
            )
        found = ""
        for precision in present:
            try:
                session = self._new_session(precision, self._threads)
                worst, allowed = self._self_test(session, precision), TOLERANCE[precision]
            except BundleError:
                raise
            except Exception as e:  # onnxruntime's own kinds, of an operator that it does not know
                found = f"{precision}: onnxruntime {ort.__version__} cannot run it: {e}"
            else:
                if worst <= allowed:
                    return precision, session
                found = f"{precision}: golden logits differ by {worst:.3g}, allowed {allowed}"
            if precision != present[-1]:
                log.warning("%s; using fp32 instead on this machine", found)
        raise BundleError(f"{self.bundle.folder}: {found}; this CPU or onnxruntime is not fit.")

    def _new_session(self, precision: str, threads: int) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait in a loop take the core from those that work: 45 against 33 texts a second
        # on two cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(self.bundle.path(self.bundle.models[precision]))
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def _self_test(self, session: Any, precision: str) -> float:
        """Return the largest logit difference from the golden file; check every token id first."""
        encoded = self._tokenizer.encode_batch([prepare(g["text"]) for g in self._golden])
        for g, e in zip(self._golden, encoded, strict=True):
            if g["input_ids"] != e.ids:
                raise BundleError(
                    f"{self.bundle.folder}: the tokenizer gives other tokens than at export for "
                    f"{g['text'][:40]!r}. Installed tokenizers and tokenizer.json do not fit."
                )
        # Eight short texts are enough to see a wrong kernel, and cost a few milliseconds. One by
        # one, as at export: with other shapes int8 rounds some values the other way.
        some = sorted(self._golden, key=lambda g: len(g["input_ids"]))[:8]
        got = np.concatenate([self._logits([g["input_ids"]], 1, session) for g in some])
        want = np.array([g["logits"][precision] for g in some], dtype=np.float32)
        return float(np.abs(got - want).max())


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _batches(lengths: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Yield positions by rising length, at most `batch` and `BATCH_TOKENS` together (but one)."""
    rows: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and (len(rows) == batch or lengths[i] * (len(rows) + 1) > BATCH_TOKENS):
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def _answer(task: Task, logits: np.ndarray, blank: bool) -> Answer:
    scaled = logits.astype(np.float64) / task.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    best = int(p.argmax())
    return Answer(
        label=task.labels[best],
        display=task.display[best],
        probability=float(p[best]),
        abstained=blank or bool(p[best] < task.threshold),
        probabilities=dict(zip(task.labels, map(float, p), strict=True)),
    )


def _read_golden(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:  # split at line feeds only: a text may hold U+2028
        rows = [json.loads(line) for line in lines]
    if not rows:
        raise BundleError(f"{path}: no golden texts; the bundle cannot be checked")
    return rows
