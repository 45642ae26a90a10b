"""Write word logits into the weights of a fine-tuned CamemBERT, which stays one.

Every word piece gets a few dimensions more, which hold what it says of each label. New attention heads,
which look at all tokens alike and at `<s>` as at `SILENT_WORDS` of them, average these over the article
in the first layer; the residual stream of all tokens carries the average to the last layer, where the
same heads gather it into `<s>` (whose own stream is no carrier: in between, layer norm divides it by up
to 11), and the classification head adds it to its logits. The result is a
`CamembertForSequenceClassification` wider by as many heads as the labels need (ours: one): every export
and service takes it unchanged.

Layer normalisation sees old and new dimensions together. So that the old ones keep their values, the
new ones lie around the old ones' mean (then only the variance shrinks, by a known factor) and stay
small beside them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from presseco.evaluate import Floats
from presseco.taxonomy import slices
from presseco.words import SILENT_WORDS, Words

#: Size of a word's new dimensions beside the spread of its old ones: root mean square over words in
#: use, and the most that any may have. They add (new / all dimensions) x size^2 to the variance.
_WORD, _WORD_MOST = 0.05, 0.5
#: Size of the article's average beside the spread of `<s>`, for the same reason.
_AVERAGE = 0.2
#: Root mean square of the mark that the new heads know `<s>` by, beside the spread of its old
#: dimensions. A large one leaks into the average of an int8 model: of .5, .2, .1, .05 and .02 (times .88)
#: the fourth erred least.
_MARK = 0.044
#: Size inside the new attention heads: near the others' (0.16 in ours), for int8 has one scale for all.
_INSIDE = 0.25
#: Typical texts' largest value before the tanh of the head. There tanh(1) = .76, so no text can say more
#: than 1.3 times what the most outspoken typical one says.
_TANH = 1.0
#: Texts that sizes are measured on: their mean is known to a fiftieth then.
TYPICAL = 40


@torch.no_grad()
def widen(
    model: Any,
    words: Words,
    factors: Floats,
    task_map: list[list[Any]],
    ids: Sequence[Sequence[int]],
) -> Any:
    """Return a wider copy of `model`: nearly its logits plus `factors` (a task) times the words'.

    Nearly, because the last norms divide by a spread that differs by a tenth from text to text; and
    up to a number added to all labels of a task, which changes no answer. `ids` are token ids of
    typical texts, on which sizes are measured: about `TYPICAL` are enough.
    """
    device = next(model.parameters()).device
    model = copy.deepcopy(model).cpu().eval()
    sample = [torch.tensor([list(i)]) for i in ids]
    said = torch.from_numpy(words.logits(ids) - words.bias).float()
    graft = _Graft(model, words, sample, [slice(s.start, s.stop) for s in slices(task_map)])
    graft.copy()
    graft.words()
    graft.mark(int(ids[0][0]))
    graft.average(said)
    graft.head(said, [float(f) for f in factors])
    return graft.wide.to(device)


class _Graft:
    """The wider model under construction. `self.old` and `self.new` are its two parts of `hidden`."""

    def __init__(self, model: Any, words: Words, sample: list[Tensor], tasks: list[slice]) -> None:
        self.model, self.sample, self.tasks = model, sample, tasks
        self.table = torch.from_numpy(words.table).float()
        self.bias = torch.from_numpy(words.bias).float()
        config = copy.deepcopy(model.config)
        size = config.hidden_size // config.num_attention_heads
        # One dimension at least beside the first task's labels, for the mark's sum to be 0.
        heads = -(-max(self.table.shape[1], tasks[0].stop + 1) // size)
        before = config.hidden_size
        config.num_attention_heads += heads
        config.hidden_size += heads * size
        self.ratio = before / config.hidden_size
        config.layer_norm_eps *= self.ratio
        self.wide = type(model)(config).eval()
        self.old = slice(0, before)
        self.new = slice(before, config.hidden_size)
        self.labels = slice(before, before + self.table.shape[1])
        # Takes each task's mean off: what labels have in common is no information, and only there do
        # the mark and the old dimensions disturb the new ones.
        self.centre = torch.eye(self.table.shape[1])
        for s in tasks:
            self.centre[s, s] -= 1 / (s.stop - s.start)
        self.spread, self.level = self._measure()

    def _measure(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return of every layer norm: the spread that enters, the mean that leaves.

        The spread is that of the tokens that carry the average there: `<s>` in the last layer.
        """
        last = f".{self.model.config.num_hidden_layers - 1}."
        spread: dict[str, list[float]] = {}
        level: dict[str, list[float]] = {}

        def watch(name: str) -> Any:
            def hook(_: Any, inputs: Any, output: Tensor) -> None:
                carriers = inputs[0][0, :1] if last in name else inputs[0][0, 1:]
                spread.setdefault(name, []).append(float(carriers.std(dim=1, correction=0).mean()))
                level.setdefault(name, []).append(float(output.mean()))

            return hook

        hooks = [m.register_forward_hook(watch(n)) for n, m in _norms(self.model)]
        for ids in self.sample:
            self.model.roberta(input_ids=ids)
        for hook in hooks:
            hook.remove()
        return _means(spread), _means(level)

    def copy(self) -> None:
        """Write the old model into the old dimensions; the new ones follow the old ones' mean."""
        for p in self.wide.parameters():
            p.zero_()
        mine = dict(self.wide.named_parameters())
        for name, p in self.model.named_parameters():
            if name.startswith("classifier."):
                continue
            q = mine[name]
            q[tuple(slice(0, n) for n in p.shape)] = p
            if "embeddings." in name and p.dim() == 2:
                q[:, self.new] = p.mean(dim=1, keepdim=True)
            elif ".output.dense." in name:  # what is added to the residual stream
                q[(self.new, *(slice(0, n) for n in p.shape[1:]))] = p.mean(dim=0)
        for name, norm in _norms(self.wide):
            norm.weight[self.old] *= self.ratio**0.5
            # A value of the new dimensions leaves as large as it came.
            norm.weight[self.new] = self.spread[name] * self.ratio**0.5
            norm.bias[self.new] = self.level[name]

    def words(self) -> None:
        """Write the table into the word embeddings; `self.size` is what a unit of it becomes."""
        ours, theirs = self.wide.roberta.embeddings, self.model.roberta.embeddings
        used = torch.unique(torch.cat([ids[0] for ids in self.sample]))
        table = self.table
        self.size = min(
            _WORD / float(table[used].square().mean().sqrt().clamp_min(1e-9)),
            _WORD_MOST / float(table.abs().max().clamp_min(1e-9)),
        )
        # Layer norm divides by about the word's own spread (positions add little): it cancels.
        vectors = theirs.word_embeddings.weight + theirs.token_type_embeddings.weight[0]
        spread = vectors.std(dim=1, correction=0, keepdim=True)
        ours.word_embeddings.weight[:, self.labels] += self.size * table * spread
        ours.LayerNorm.weight[self.new] = self.ratio**0.5

    def mark(self, first: int) -> None:
        """Let the new heads of the first layer look at token `first` as at `SILENT_WORDS` others.

        The mark is the same for all labels of a task, where what words say has the mean 0, and its sum
        is 0: it moves neither an average nor the old dimensions.
        """
        mark = torch.zeros(self.new.stop - self.new.start)
        mark[self.tasks[0]] = 1.0
        mark -= mark.mean()
        mark /= mark.square().mean().sqrt()
        ours, theirs = self.wide.roberta.embeddings, self.model.roberta.embeddings
        vector = theirs.word_embeddings.weight[first] + theirs.token_type_embeddings.weight[0]
        ours.word_embeddings.weight[first, self.new] += _MARK * vector.std(correction=0) * mark
        found = self.wide.roberta.embeddings(torch.tensor([[first]]))[0, 0, self.new]
        attention = self.wide.roberta.encoder.layer[0].attention.self
        # Attention divides by the root of the head's size; half of the logarithm on either side.
        half = math.sqrt(math.log(SILENT_WORDS) * math.sqrt(attention.attention_head_size))
        for head in range(self.new.start, self.new.stop, attention.attention_head_size):
            attention.key.weight[head, self.new] = half * mark / (found @ mark)
            attention.query.bias[head] = half

    def average(self, said: Tensor) -> None:
        """Let the new heads average the words' values over the article, and bring that to `<s>`.

        `said`, shape (texts, labels), is what the words say of the sample.
        """
        unit = _INSIDE / float(said.std().clamp_min(1e-9))
        last = self.model.config.num_hidden_layers - 1
        size = self._gather(0, self.size, unit)
        if last:
            self._gather(last, size, unit)

    def _gather(self, layer: int, size: float, unit: float) -> float:
        """Average in one layer what stands at `size` times its value.

        Returns its new size. `unit` brings the values to `_INSIDE` inside the heads.
        """
        attention = self.wide.roberta.encoder.layer[layer].attention
        attention.self.value.weight[self.labels, self.labels] = self.centre * (unit / size)
        norm = f"roberta.encoder.layer.{layer}.attention.output.LayerNorm"
        goal = _AVERAGE * self.spread[norm] / _INSIDE
        eye = torch.eye(self.labels.stop - self.labels.start)
        attention.output.dense.weight[self.labels, self.labels] += eye * goal
        return goal * unit

    def head(self, said: Tensor, factors: list[float]) -> None:
        """Read the average at `<s>` and add it to the logits; its size there is measured."""
        before, after = self.model.classifier, self.wide.classifier
        found = torch.cat(
            [self.wide.roberta(input_ids=i)[0][:, 0, self.labels] for i in self.sample]
        )
        found, said = found @ self.centre, said @ self.centre
        middle, mean = found.mean(dim=0), said.mean(dim=0)
        found, said = found - middle, said - mean
        gain = _TANH / float(found.abs().max().clamp_min(1e-9))
        spoken = torch.tanh(gain * found)
        size = float((spoken * said).sum() / said.square().sum().clamp_min(1e-9))
        after.dense.weight[self.old, self.old] = before.dense.weight
        after.dense.bias[self.old] = before.dense.bias
        after.dense.weight[self.labels, self.labels] = gain * self.centre
        after.dense.bias[self.labels] = -gain * middle
        after.out_proj.weight[:, self.old] = before.out_proj.weight
        after.out_proj.bias.copy_(before.out_proj.bias)
        for factor, s in zip(factors, self.tasks, strict=True):
            for label in range(s.start, s.stop) if factor else ():
                column = self.labels.start + label
                after.out_proj.weight[label, column] = factor / size
                after.out_proj.bias[label] += factor * (mean[label] + self.bias[label])


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(v) / len(v) for name, v in values.items()}


def _norms(model: Any) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in model.named_modules() if n.endswith("LayerNorm")]
