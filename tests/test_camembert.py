"""Fine-tuning on a tiny real CamemBERT: the loss, what is frozen, determinism, resume."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import SHRINK, experiment
from presseco import processes
from presseco.camembert import (
    _groups,
    _schedule,
    _token_dropout,
    fine_tune,
    freeze,
)
from presseco.checkpoint import Progress
from presseco.config import CamembertConfig, read_config
from presseco.encoder import load_model, load_tokenizer, token_ids
from presseco.errors import ConfigError, StoreError
from presseco.evaluate import mean_macro_f1
from presseco.loss import class_weights, multi_task_loss, outside_loss
from presseco.states import Inputs, encode, predict_logits, upper
from presseco.taxonomy import MISSING, OUTSIDE, read_taxonomy

TASKS = [["a", ["x", "y", "z"]], ["b", ["u", "v"]]]


# --- the loss ---------------------------------------------------------------------------------


def cross_entropy_by_hand(logits, labels, weight, smoothing) -> float:
    """Weighted, smoothed cross-entropy as PyTorch's documentation defines it, row by row."""
    total = norm = 0.0
    for row, y in zip(logits, labels, strict=True):
        if y < 0:
            continue
        logp = row - np.log(np.exp(row).sum())
        total += -(1 - smoothing) * weight[y] * logp[y]
        total += -smoothing / len(row) * float((weight * logp).sum())
        norm += weight[y]
    return total / norm if norm else 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_loss_is_that_computed_by_hand(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (6, 5))
    labels = np.array([[0, 1], [MISSING, 0], [2, MISSING], [1, 1], [OUTSIDE, OUTSIDE], [2, 0]])
    weights = [np.array([0.5, 1.0, 1.5]), np.array([1.2, 0.8])]
    expected = cross_entropy_by_hand(logits[:, :3], labels[:, 0], weights[0], smoothing)
    expected += cross_entropy_by_hand(logits[:, 3:], labels[:, 1], weights[1], smoothing)
    found = multi_task_loss(
        torch.tensor(logits), labels, TASKS, [torch.tensor(w) for w in weights], smoothing
    )
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_missing_labels_move_nothing():
    logits = torch.randn(4, 5, requires_grad=True)
    labels = np.array([[0, MISSING], [MISSING, MISSING], [1, MISSING], [2, MISSING]])
    weights = class_weights(labels, TASKS, 0.5, torch.device("cpu"))
    multi_task_loss(logits, labels, TASKS, weights, 0.1).backward()
    assert (logits.grad[:, 3:] == 0).all() and (logits.grad[1] == 0).all()
    assert (logits.grad[[0, 2, 3], :3] != 0).all()


def test_batch_without_any_label_has_a_loss_of_zero():
    logits = torch.randn(2, 5, requires_grad=True)
    labels = np.full((2, 2), MISSING)
    loss = multi_task_loss(logits, labels, TASKS, [torch.ones(3), torch.ones(2)], 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0 and (logits.grad == 0).all()


def test_outside_loss_is_least_for_uniform_answers_and_sees_only_outside_texts():
    labels = np.array([[0, 0], [OUTSIDE, OUTSIDE]])
    even = torch.zeros(2, 5)
    assert float(outside_loss(even, labels, TASKS)) == pytest.approx((np.log(3) + np.log(2)) / 2)
    inside = torch.tensor([[9.0, 0, 0, 9, 0], [0, 0, 0, 0, 0]])
    assert float(outside_loss(inside, labels, TASKS)) == pytest.approx(
        float(outside_loss(even, labels, TASKS))
    )
    sure = torch.tensor([[0.0, 0, 0, 0, 0], [9, 0, 0, 9, 0]])
    assert float(outside_loss(sure, labels, TASKS)) > 2
    assert float(outside_loss(sure, np.zeros((2, 2), np.int64), TASKS)) == 0.0


def test_class_weights_rise_for_rare_classes_and_have_mean_one():
    labels = np.array([[0, 0]] * 6 + [[1, MISSING]] * 2 + [[2, 1]] * 1)
    cpu = torch.device("cpu")
    a, b = class_weights(labels, TASKS, 0.5, cpu)
    assert a[0] < a[1] < a[2]
    assert a.mean() == pytest.approx(1.0) and b.mean() == pytest.approx(1.0)
    assert float(a[2] / a[0]) == pytest.approx(6**0.5, rel=1e-5)
    assert class_weights(labels, TASKS, 0.0, cpu)[0].tolist() == [1.0, 1.0, 1.0]


# --- tokens and rates -------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_token_dropout_keeps_both_ends_and_the_order(rate):
    inputs = Inputs([list(range(n)) for n in (2, 3, 50, 300)], None, [])
    dropped = []
    for step in range(30):
        keep = _token_dropout(inputs, [3, 0, 2, 1], rate, seed=1, step=step)
        for row, kept in zip([3, 0, 2, 1], keep, strict=True):
            n = len(inputs.ids[row])
            assert kept[0] == 0 and kept[-1] == n - 1
            assert (np.diff(kept) > 0).all()
        dropped.append(1 - len(keep[0]) / 300)
    assert np.mean(dropped) == pytest.approx(rate, abs=0.03)


def test_token_dropout_depends_on_seed_and_step_only():
    inputs = Inputs([list(range(100))] * 3, None, [])
    draw = lambda seed, step: [k.tolist() for k in _token_dropout(inputs, [0, 1], 0.3, seed, step)]  # noqa: E731
    assert draw(1, 5) == draw(1, 5)
    assert draw(1, 5) != draw(1, 6) and draw(1, 5) != draw(2, 5)
    assert _token_dropout(inputs, [0], 0.0, 1, 1) is None


def test_schedule_rises_to_the_peak_and_falls_to_nothing():
    shares = [_schedule(s, 100, 0.1) for s in range(100)]
    assert max(shares) == 1.0 and 0 < shares[0] <= 0.1
    top = shares.index(1.0)
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert 0 < shares[-1] < 0.05
    assert _schedule(0, 1, 0.0) == 1.0


# --- training ---------------------------------------------------------------------------------


@dataclass
class Case:
    """Everything that one fine-tuning needs; `model` gives the same fresh model every time."""

    encoder: Path
    task_map: list[list[Any]]
    config: CamembertConfig
    train: Inputs
    labels: np.ndarray
    validation: Inputs
    truth: np.ndarray

    def model(self) -> Any:
        torch.manual_seed(0)
        return load_model(self.encoder, self.task_map, self.config.dropout)

    def tune(self, folder: Path, model: Any = None, seed: int = 1, **more: Any) -> tuple[Any, Any]:
        model = model or self.model()
        config = self.config.model_copy(update=more.pop("config", {}))
        state = fine_tune(
            model,
            more.pop("train", self.train),
            self.labels,
            self.validation,
            self.truth,
            task_map=self.task_map,
            config=config,
            seed=seed,
            folder=folder,
            **more,
        )
        return model, state


def make_case(project: Path, rows: list[dict[str, Any]]) -> Case:
    config = read_config(experiment(project, "camembert-mini"), SHRINK)
    # Every source of chance on, so that the tests of determinism mean something.
    settings = config.camembert.model_copy(
        update={"dropout": 0.1, "token_dropout": 0.2, "checkpoint_seconds": 0.0, "patience": 9}
    )
    taxonomy = read_taxonomy(project / "configs" / "taxonomy.yaml")
    folder = project / "models" / "encoder"
    tokenizer = load_tokenizer(folder)
    some = rows[::2]
    labels = np.array([[taxonomy.index(t, r[t]) for t in taxonomy.names] for r in some])
    model = load_model(folder, taxonomy.task_map)
    parts = []
    for texts in ([r["text"] for r in some[:40]], [r["text"] for r in some[40:]]):
        ids = token_ids(tokenizer, texts, settings.max_tokens)
        parts.append(encode(model, ids, frozen_layers=settings.frozen_layers, bf16=False)[0])
    return Case(folder, taxonomy.task_map, settings, parts[0], labels[:40], parts[1], labels[40:])


@pytest.fixture
def case(template: Path, rows: list[dict[str, Any]]) -> Case:
    return make_case(template, rows)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


def result(state: Progress) -> tuple[Any, ...]:
    return state.step, state.best_score, state.best_epoch, state.history


def test_frozen_layers_do_not_change_and_the_others_do(case, tmp_path):
    model = case.model()
    before = weights_of(model)
    after = weights_of(case.tune(tmp_path, model)[0])
    frozen = ("roberta.embeddings.", "roberta.encoder.layer.0.")
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed != name.startswith(frozen), name


def test_nothing_frozen_trains_the_embeddings_too(case, tmp_path):
    plain = Inputs(case.train.ids, None, case.train.offsets)
    case.validation = Inputs(case.validation.ids, None, case.validation.offsets)
    model = case.model()
    before = weights_of(model)
    after = weights_of(case.tune(tmp_path, model, config={"frozen_layers": 0}, train=plain)[0])
    assert all(not torch.equal(before[n], after[n]) for n in before)


def test_freeze_stops_the_embeddings_with_the_first_layers(case):
    for layers, still in ((0, ()), (1, ("embeddings.", "encoder.layer.0."))):
        model = case.model()
        freeze(model, layers)
        for name, p in model.roberta.named_parameters():
            assert p.requires_grad != name.startswith(still or ("-",)), name


def test_more_frozen_layers_than_there_are(case):
    with pytest.raises(ConfigError, match="frozen_layers is 3, but the encoder has 2 layers"):
        freeze(case.model(), 3)


def test_every_trained_weight_is_in_one_group_and_lower_layers_move_slower(case):
    model = case.model()
    groups = _groups(model, case.config)
    counted = [id(p) for g in groups for p in g["params"]]
    assert sorted(counted) == sorted(id(p) for p in model.parameters())
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    head, top, bottom, words = (
        rate[id(next(m.parameters()))]
        for m in (
            model.classifier,
            model.roberta.encoder.layer[1],
            model.roberta.encoder.layer[0],
            model.roberta.embeddings,
        )
    )
    assert head == case.config.head_learning_rate and top == case.config.learning_rate
    assert bottom == pytest.approx(top * case.config.layer_decay)
    assert words == pytest.approx(bottom * case.config.layer_decay)
    for g in groups:
        assert all((p.dim() > 1) == (g["weight_decay"] > 0) for p in g["params"])


def test_first_step_moves_by_the_share_of_the_rate_that_the_schedule_gives(case, tmp_path):
    """Adam's first step is the rate itself: a third of the peak when three steps warm up."""
    model = case.model()
    bias = model.classifier.out_proj.bias
    before, moved = bias.detach().clone(), []
    case.tune(
        tmp_path,
        model,
        config={"warmup": 1.0, "epochs": 1},
        on_step=lambda step, total: moved.append(float((bias - before).detach().abs().max())),
    )
    assert len(moved) == 3
    assert moved[0] == pytest.approx(case.config.head_learning_rate / 3, rel=0.02)


def test_training_learns_what_can_be_learnt(case, tmp_path):
    """Labels that a token gives away are learnt; the loss falls to a fraction."""
    flag = np.array([i % 2 for i in range(len(case.train.ids))])
    ids = [[5, 100 + 7 * f] * 10 + [6] for f in flag]
    case.task_map = TASKS[1:]
    case.train = case.validation = Inputs(ids, None, [])
    case.labels = case.truth = flag[:, None]
    more = {"frozen_layers": 0, "epochs": 30, "learning_rate": 0.02, "head_learning_rate": 0.02}
    _, state = case.tune(tmp_path, config={**more, "average": 0.0, "label_smoothing": 0.0})
    assert state.best_score == 1.0
    assert state.history[-1]["train.loss"] < 0.2 * state.history[0]["train.loss"]


def test_best_weights_are_left_in_the_model(case, tmp_path):
    model, state = case.tune(tmp_path, config={"epochs": 4})
    assert not model.training
    logits = predict_logits(
        model, case.validation, frozen_layers=case.config.frozen_layers, bf16=False
    )
    scores = [h["validation.macro_f1"] for h in state.history]
    assert state.best_score == max(scores) == scores[state.best_epoch]
    assert mean_macro_f1(case.task_map, logits, case.truth) == pytest.approx(state.best_score)


def test_patience_counts_epochs_without_improvement(case, tmp_path):
    still = {"learning_rate": 1e-12, "head_learning_rate": 1e-12, "epochs": 9}
    for patience in (1, 3):
        _, state = case.tune(tmp_path / str(patience), config={**still, "patience": patience})
        assert len(state.history) == 1 + patience and state.best_epoch == 0


def test_same_seed_same_weights_and_another_seed_others(case, tmp_path):
    runs = [
        weights_of(case.tune(tmp_path / str(i), seed=seed)[0]) for i, seed in enumerate((1, 1, 2))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_average_of_nothing_is_the_last_step(case, tmp_path):
    """`average: 0` turns the averaging off: the kept weights are those of the best epoch's end."""
    from safetensors.torch import load_file

    model, state = case.tune(tmp_path, config={"average": 0.0, "epochs": 1})
    last = load_file(tmp_path / "checkpoint.safetensors")
    assert state.best_epoch == 0
    for name, value in weights_of(model).items():
        if f"weight.{name}" in last:
            assert torch.equal(value, last[f"weight.{name}"])


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_stopped_at_any_step_it_ends_the_same(case, tmp_path, stop):
    model, state = case.tune(tmp_path / "whole")

    def interrupt(step: int, total: int) -> None:
        assert total == 6
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.tune(tmp_path / "cut", on_step=interrupt)
    steps: list[int] = []
    epochs: list[int] = []
    again, resumed = case.tune(
        tmp_path / "cut",
        on_step=lambda step, total: steps.append(step),
        on_epoch=lambda epoch, metrics: epochs.append(epoch),
    )
    assert same(weights_of(model), weights_of(again))
    assert result(resumed) == result(state)
    assert epochs == [1, 2], "a resumed run reports every epoch, also those before the stop"
    if stop > 1:
        assert steps[0] > 1, "the run began again instead of resuming"


@pytest.mark.parametrize("stop", [1, 2])
def test_stopped_before_an_epoch_is_saved_it_is_validated_again(case, tmp_path, stop):
    model, state = case.tune(tmp_path / "whole")

    def interrupt(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.tune(tmp_path / "cut", on_epoch=interrupt)
    again, resumed = case.tune(tmp_path / "cut")
    assert result(resumed) == result(state) and same(weights_of(model), weights_of(again))


def test_only_the_first_process_writes(case, tmp_path, monkeypatch):
    """What ranks do that only help: at the same file as the first they would be in its way."""
    monkeypatch.setattr(processes, "first", lambda: False)
    _, state = case.tune(tmp_path / "helper")
    assert len(state.history) == 2 and state.best_score > 0
    assert not (tmp_path / "helper").exists()


def test_processes_that_find_different_checkpoints_do_not_go_on(case, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "agree", lambda value: value + 3)
    with pytest.raises(StoreError, match="finds another checkpoint here than the first one"):
        case.tune(tmp_path)


def test_full_disk_in_a_checkpoint_is_a_clear_error(case, tmp_path, small_files):
    with small_files(10_000), pytest.raises(StoreError, match=r"checkpoint\.safetensors: cannot"):
        case.tune(tmp_path)
    model, _ = case.tune(tmp_path)
    assert same(weights_of(model), weights_of(case.tune(tmp_path / "other")[0]))


SCRIPT = """
import json, random, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_camembert import make_case
rows = json.loads(Path({rows!r}).read_text("utf-8"))
case = make_case(Path({template!r}), rows)
def on_step(step, total):
    print(step, flush=True)
    time.sleep(random.random() / 10)
case.tune(Path({folder!r}), config={{"epochs": 4}}, on_step=on_step)
"""


def test_killed_at_a_random_step_it_ends_the_same(case, template, rows, tmp_path):
    import json

    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf-8")
    script = SCRIPT.format(
        tests=str(Path(__file__).parent),
        rows=str(tmp_path / "rows.json"),
        template=str(template),
        folder=str(tmp_path / "cut"),
    )
    stop = random.randint(2, 10)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == stop:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL, f"killed at step {stop}"
    more = {"config": {"epochs": 4}}
    model, state = case.tune(tmp_path / "whole", **more)
    again, resumed = case.tune(tmp_path / "cut", **more)
    assert 0 < resumed.resumed <= 12, f"killed at step {stop}"
    assert result(resumed) == result(state), f"killed at step {stop}"
    assert same(weights_of(model), weights_of(again)), f"killed at step {stop}"


# --- the encoder in two parts -----------------------------------------------------------------


@torch.no_grad()
def test_upper_layers_give_what_the_native_model_gives(case):
    model = case.model().eval()
    rows = list(range(8))
    ids = [case.train.ids[i][: 8 + 7 * i] for i in rows]  # of different lengths: padding is masked
    longest = max(map(len, ids))
    assert min(map(len, ids)) < longest
    batch = torch.full((8, longest), model.config.pad_token_id)
    mask = torch.zeros(8, longest, dtype=torch.bool)
    for i, row in enumerate(ids):
        batch[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    native = model(input_ids=batch, attention_mask=mask.long())
    hidden = upper(model, batch, mask, 0)
    expected = model.roberta(input_ids=batch, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(hidden, expected[:, :1], atol=1e-6)
    assert torch.allclose(model.classifier(hidden), native.logits, atol=1e-6)
    found = predict_logits(model, Inputs(ids, None, []), frozen_layers=0, bf16=False, size=3)
    assert found == pytest.approx(native.logits.numpy(), abs=1e-5)


def test_the_first_token_alone_teaches_the_weights_what_all_tokens_do(case):
    model = case.model().eval()
    batch = torch.tensor([row[:20] for row in case.train.ids[:4]])
    mask = torch.ones(4, 20, dtype=torch.bool)
    mask[1, 12:] = False
    gradients = []
    for hidden in (
        upper(model, batch, mask, 0),
        model.roberta(input_ids=batch, attention_mask=mask.long()).last_hidden_state,
    ):
        model.zero_grad()
        model.classifier(hidden).square().sum().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, own in gradients[0].items():
        assert torch.allclose(own, gradients[1][name], rtol=1e-3, atol=1e-4), name


@torch.no_grad()
def test_all_layers_frozen_leave_the_head_the_same_states(case):
    model = case.model().eval()
    ids = [row[: 8 + i] for i, row in enumerate(case.train.ids[:9])]
    layers = len(model.roberta.encoder.layer)
    inputs, vectors = encode(model, ids, frozen_layers=layers, bf16=False, size=4)
    _, alone = encode(model, ids, frozen_layers=0, bf16=False, size=4)
    assert vectors == pytest.approx(alone, abs=1e-5)
    kept = predict_logits(model, inputs, frozen_layers=layers, bf16=False)
    whole = predict_logits(model, Inputs(ids, None, []), frozen_layers=0, bf16=False)
    assert np.abs(kept - whole).max() < 0.02 * np.abs(whole).max() + 1e-3


def test_kept_lower_states_give_nearly_the_same(case):
    """They are bf16, 8 bits of mantissa: equal to about 1 %."""
    model = case.model()
    ids = [row[: 8 + i] for i, row in enumerate(case.train.ids)]
    inputs = encode(model, ids, frozen_layers=1, bf16=False, size=5)[0]
    assert inputs.states is not None and len(inputs.states) == sum(map(len, ids))
    whole = predict_logits(model, Inputs(ids, None, []), frozen_layers=0, bf16=False)
    kept = predict_logits(model, inputs, frozen_layers=1, bf16=False)
    assert np.abs(kept - whole).max() < 0.02 * np.abs(whole).max() + 1e-3


@torch.no_grad()
def test_encode_returns_the_vectors_of_the_first_token(case):
    model = case.model().eval()
    ids = case.train.ids[:5]
    ids = [row[: 9 + 11 * i] for i, row in enumerate(ids)]
    inputs, vectors = encode(model, ids, frozen_layers=0, bf16=False, size=2)
    assert inputs.states is None
    for row, vector in zip(ids, vectors, strict=True):
        expected = model.roberta(input_ids=torch.tensor([row])).last_hidden_state[0, 0]
        assert vector == pytest.approx(expected.numpy(), abs=1e-5)
