"""The words' regression, and that a CamemBERT with it written in answers as the two together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from presseco.encoder import load_model, load_tokenizer, token_ids
from presseco.quantize import write_int8
from presseco.states import Inputs, first_vectors, head_logits, predict_logits
from presseco.taxonomy import slices
from presseco.widen import widen
from presseco.words import SILENT_WORDS, Words, fit_words, strengths

ROOT = Path(__file__).resolve().parents[1]
TASKS: list[list[Any]] = [["kind", ["a", "b", "c"]], ["mood", ["up", "down"]]]


def toy(seed: int, count: int = 120) -> tuple[list[list[int]], np.ndarray]:
    """Texts of 32 tokens of 100; tokens 10 + label (kind) and 20 + label (mood) tell, twice each."""
    rng = np.random.default_rng(seed)
    labels = np.stack([np.arange(count) % 3, rng.integers(0, 2, count)], axis=1)
    ids = [[0, *rng.integers(30, 100, 26), *[10 + k, 20 + m] * 2, 2] for k, m in labels.tolist()]
    return [[int(i) for i in row] for row in ids], labels


def accuracy(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    return [
        float((logits[:, s.start : s.stop].argmax(1) == labels[:, t]).mean())
        for t, s in enumerate(slices(TASKS))
    ]


def test_words_that_tell_are_found():
    words = fit_words(*toy(0), TASKS, 100)
    ids, labels = toy(1)
    assert accuracy(words.logits(ids), labels) == [1.0, 1.0]


def test_logits_are_the_mean_of_the_tokens_rows_and_many_of_zeros():
    words = Words(np.arange(20.0).reshape(4, 5), np.ones(5))
    expected = (words.table[1] + 2 * words.table[3]) / (3 + SILENT_WORDS) + 1
    assert words.logits([[2, 3, 1, 3]])[0] == pytest.approx(expected)


def test_unknown_labels_count_for_nothing_and_an_unseen_one_is_unlikely():
    ids, labels = toy(0)
    labels = labels.copy()
    labels[labels[:, 0] == 2, 0] = -1  # no article of "c" is left
    words = fit_words(ids, labels, TASKS, 100)
    assert np.isfinite(words.table).all() and np.isfinite(words.bias).all()
    said = words.logits(ids)
    known = labels[:, 0] >= 0
    assert (said[known, :3].argmax(axis=1) == labels[known, 0]).all()
    assert (said[:, 2] < said[:, :2].max(axis=1)).all()


def test_words_count_as_much_as_it_knows():
    rng = np.random.default_rng(0)
    truth = np.stack([rng.integers(0, 3, 300), np.full(300, -1)], axis=1)
    right = np.zeros((300, 5))
    right[np.arange(300), truth[:, 0]] = 2
    noise = rng.normal(size=(300, 5))
    own = right + noise
    assert strengths(own, rng.normal(size=(300, 5)), truth, TASKS)[0] < 0.2
    better = strengths(own, right + rng.normal(size=(300, 5)) / 2, truth, TASKS)
    assert better[0] > 1
    assert better[1] == 0  # no held-out label: not used


@pytest.fixture(scope="module")
def native(rows: list[dict[str, Any]]) -> tuple[Any, Words, list[list[int]], list[list[Any]]]:
    """The shipped encoder under a random head, a words of 80 articles, and 24 other texts."""
    from presseco.taxonomy import read_taxonomy

    taxonomy = read_taxonomy(ROOT / "configs" / "taxonomy.yaml")
    tasks, folder = taxonomy.task_map, ROOT / "models" / "encoder"
    torch.manual_seed(0)
    model = load_model(folder, tasks, dropout=0.0).eval()
    with torch.no_grad():
        model.classifier.dense.weight.normal_(0, 0.3)
        model.classifier.out_proj.weight.normal_(0, 0.3)
    labels = np.array([[names.index(r[task]) for task, names in tasks] for r in rows])
    ids = token_ids(load_tokenizer(folder), [r["text"] for r in rows], 96)
    words = fit_words(ids[:80], labels[:80], tasks, model.config.vocab_size)
    return model, words, ids[80:104], tasks


def centred(logits: np.ndarray, tasks: list[list[Any]]) -> np.ndarray:
    """Take each task's mean off: it changes no answer."""
    parts = [logits[:, s.start : s.stop] for s in slices(tasks)]
    return np.concatenate([p - p.mean(axis=1, keepdims=True) for p in parts], axis=1)


def answers(model: Any, ids: list[list[int]]) -> np.ndarray:
    return predict_logits(model, Inputs(ids, None, []), frozen_layers=0, bf16=False, size=5)


def test_the_wider_model_answers_as_both_together(native):
    model, words, ids, tasks = native
    factors = np.array([0.5, 1.0, 2.0])
    own, said = answers(model, ids), words.logits(ids)
    for part, s in zip(factors, slices(tasks), strict=True):
        said[:, s.start : s.stop] *= part
    wide = widen(model, words, factors, tasks, ids[::-1])
    assert type(wide) is type(model)
    assert wide.config.hidden_size == 416 and wide.config.num_attention_heads == 13
    error = centred(answers(wide, ids) - own - said, tasks)
    # The last norms divide by a spread that differs by a tenth from article to article.
    assert np.sqrt((error**2).mean()) < 0.2 * centred(said, tasks).std()
    alone = widen(model, words, 0 * factors, tasks, ids[::-1])
    moved = centred(answers(alone, ids) - own, tasks)
    assert np.sqrt((moved**2).mean()) < 0.03 * own.std()


def test_services_load_the_wider_model_as_any_other(native, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification

    model, words, ids, tasks = native
    wide = widen(model, words, np.ones(3), tasks, ids)
    wide.save_pretrained(tmp_path / "hf")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    assert again.config.task_map == tasks
    assert answers(again, ids) == pytest.approx(answers(wide, ids), abs=1e-5)
    write_int8(wide, ids, tmp_path / "int8.onnx")
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"))
    feeds = [
        {"input_ids": np.array([i]), "attention_mask": np.ones((1, len(i)), np.int64)} for i in ids
    ]
    small = np.concatenate([session.run(None, f)[0] for f in feeds])
    error = centred(small - answers(wide, ids), tasks)
    assert np.sqrt((error**2).mean()) < 0.05 * centred(answers(wide, ids), tasks).std()


def test_short_texts_and_padding_do_not_upset_the_integers(native, tmp_path: Path):
    model, words, ids, tasks = native
    wide = widen(model, words, np.ones(3), tasks, ids)
    cut = [row[: n - 1] + row[-1:] for row, n in zip(ids, (2, 4, 8, 20, 40, 96), strict=False)]
    write_int8(wide, ids, tmp_path / "int8.onnx")
    session = ort.InferenceSession(str(tmp_path / "int8.onnx"))
    batch, mask = np.ones((len(cut), 96), np.int64), np.zeros((len(cut), 96), np.int64)
    for i, row in enumerate(cut):
        batch[i, : len(row)], mask[i, : len(row)] = row, 1
    small = session.run(None, {"input_ids": batch, "attention_mask": mask})[0]
    whole = answers(wide, cut)
    error = centred(small - whole, tasks)
    assert np.sqrt((error**2).mean()) < 0.1 * centred(whole, tasks).std()
    # What the words add to a few tokens is what the regression says: little.
    alone = widen(model, words, np.zeros(3), tasks, ids)
    articles = centred(answers(wide, ids) - answers(alone, ids), tasks)
    added = centred(whole - answers(alone, cut), tasks)[:4]
    assert (
        np.abs(added - centred(words.logits(cut[:4]), tasks)).max() < 0.25 * np.abs(articles).max()
    )


def grafted(tasks: list[list[Any]], labels: np.ndarray, encoder: Path, least: float) -> Any:
    """Widen an encoder whose own head says nothing; check what it says of texts short and long."""
    torch.manual_seed(0)
    model = load_model(encoder, tasks, dropout=0.0).eval()
    with torch.no_grad():
        model.classifier.out_proj.weight.zero_()
        model.classifier.out_proj.bias.zero_()
    ids, _ = toy(0)
    words = fit_words(ids, labels, tasks, model.config.vocab_size)
    wide = widen(model, words, np.ones(len(tasks)), tasks, ids[:40])
    held_out, truth = toy(1)
    for length in (5, 10, 32):  # the words that tell stand at the end
        cut = [row[:1] + row[33 - length :] for row in held_out]
        found, said = centred(answers(wide, cut), tasks), centred(words.logits(cut), tasks)
        for s in slices(tasks):
            part, right = found[:, s.start : s.stop], said[:, s.start : s.stop]
            assert np.corrcoef(part.ravel(), right.ravel())[0, 1] > least, (length, s.name)
            size = float((part * right).sum() / (right**2).sum())
            assert 0.75 < size < 1.35, (length, s.name, size)
    # Whole texts get their labels. Kinds come in the same order in both toys, moods do not.
    for t, s in enumerate(slices(tasks)):
        if tasks[t] is not TASKS[1]:
            assert (found[:, s.start : s.stop].argmax(axis=1) == labels[:, t]).all(), s.name
        else:
            assert (found[:, s.start : s.stop].argmax(axis=1) == truth[:, 1]).all()
    return wide


def test_more_labels_than_a_head_has_dimensions_take_two_heads():
    # The labels that occur stand in the first head and in the second.
    tasks: list[list[Any]] = [
        ["few", ["a", "b", "c"]],
        ["many", [f"label {i}" for i in range(40)]],
        TASKS[1],
    ]
    _, labels = toy(0)
    labels = np.stack([labels[:, 0], 36 + labels[:, 0], labels[:, 1]], axis=1)
    wide = grafted(tasks, labels, ROOT / "models" / "encoder", 0.97)
    assert wide.config.hidden_size == 384 + 64 and wide.config.num_attention_heads == 14


def test_one_task_that_fills_a_head_takes_another_for_the_mark():
    tasks: list[list[Any]] = [["many", [f"label {i}" for i in range(32)]]]
    _, labels = toy(0)
    wide = grafted(tasks, labels[:, :1], ROOT / "models" / "encoder", 0.97)
    assert wide.config.hidden_size == 384 + 64


def test_the_characters_of_the_first_token_say_nothing():
    ids, labels = toy(0)
    words = fit_words([[*row[:-1], 0, 0, 2] for row in ids], labels, TASKS, 100)
    assert not words.table[0].any()


def test_the_head_as_it_was_reads_what_it_read(native):
    model, words, ids, tasks = native
    wide = widen(model, words, np.ones(3), tasks, ids)
    vectors = first_vectors(wide, Inputs(ids, None, []), frozen_layers=0, bf16=False)
    own = answers(model, ids)
    moved = centred(head_logits(model.classifier, vectors[:, :384]) - own, tasks)
    assert np.sqrt((moved**2).mean()) < 0.05 * own.std()
    assert np.sqrt((centred(answers(wide, ids) - own, tasks) ** 2).mean()) > 0.1 * own.std()


def test_a_single_layer_is_enough(tiny_encoder: Path):
    tasks = TASKS
    torch.manual_seed(0)
    model = load_model(tiny_encoder, tasks, dropout=0.0).eval()
    del model.roberta.encoder.layer[1]
    model.config.num_hidden_layers = 1
    ids, labels = toy(0)
    words = fit_words(ids, labels, tasks, model.config.vocab_size)
    with torch.no_grad():
        model.classifier.out_proj.weight.zero_()
    wide = widen(model, words, np.ones(2), tasks, ids)
    assert wide.config.hidden_size == 48
    held_out, truth = toy(1)
    assert accuracy(answers(wide, held_out), truth) == [1.0, 1.0]
