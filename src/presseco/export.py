"""Write the bundle that other services load: ONNX, tokenizer, manifest, golden outputs, card."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from presseco.bundle import MANIFEST, PREPARATION, SCHEMA_VERSION
from presseco.classifier import Classifier
from presseco.errors import BundleError
from presseco.files import replacing
from presseco.quantize import write_int8
from presseco.reference import REFERENCE
from presseco.taxonomy import Taxonomy
from presseco.text import prepare

#: Largest logit difference between torch and onnxruntime, both fp32, that an export may show.
PARITY = 1e-4


class _Logits(nn.Module):
    """The model as a function of two tensors that returns one: what the exporter can trace."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """Return the flat logits, shape (batch, labels of all tasks)."""
        return (self.model(input_ids=input_ids, attention_mask=attention_mask).logits,)


def export_bundle(
    model: Any,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    name: str,
    taxonomy: Taxonomy,
    temperatures: dict[str, float],
    thresholds: dict[str, float],
    max_tokens: int,
    golden: Sequence[str],
    lineage: dict[str, Any],
    card: str,
    notices: Sequence[Path] = (),
    reference: dict[str, Any] | None = None,
) -> Path:
    """Write a complete bundle to `folder`, load it again and compare it with `model`.

    The old folder stays until the new one has passed. `golden` needs 20 texts or more; `reference`
    is what `make_reference` returns. Raises `BundleError` when ONNX and torch differ by more than
    `PARITY`.
    """
    if len(golden) < 20:
        raise BundleError(f"a bundle needs 20 golden texts or more, got {len(golden)}")
    model = model.cpu().eval()
    with replacing(folder) as new:
        new.mkdir()
        _write_onnx(model, new / "model.onnx")
        tokenizer.enable_truncation(max_length=max_tokens)
        calibration = [tokenizer.encode(prepare(t)).ids for t in golden]
        write_int8(model, calibration, new / "model.int8.onnx")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(new / "tokenizer.json"))
        _write_native(model, tokenizer, new / "hf", max_tokens)
        worst = _write_golden(model, tokenizer, new, golden, max_tokens)
        if worst > PARITY:
            raise BundleError(f"ONNX and torch logits differ by {worst:.2g}, allowed {PARITY}")
        (new / "README.md").write_text(card, encoding="utf-8")
        for notice in notices:
            shutil.copy(notice, new / notice.name)
        if reference is not None:
            text = json.dumps(reference, ensure_ascii=False)
            (new / REFERENCE).write_text(text, encoding="utf-8")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "tasks": _tasks(taxonomy, temperatures, thresholds),
            "text": {
                "max_tokens": max_tokens,
                "overflow": "head",
                "preparation": PREPARATION,
            },
            "models": {"fp32": "model.onnx", "int8": "model.int8.onnx"},
            "lineage": {**lineage, "torch_onnx_difference": worst},
            "files": _checksums(new),
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (new / MANIFEST).write_text(text, encoding="utf-8")
        Classifier.load(new, precision="fp32")
    return folder


def _write_onnx(model: Any, path: Path) -> None:
    ids = torch.randint(5, 100, (2, 16))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        torch.onnx.export(
            _Logits(model).eval(),
            (ids, torch.ones_like(ids)),
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={
                "input_ids": {0: batch, 1: length},
                "attention_mask": {0: batch, 1: length},
            },
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model.eval()


def _write_native(model: Any, tokenizer: Tokenizer, folder: Path, max_tokens: int) -> None:
    """Write the checkpoint that `AutoModelForSequenceClassification` and `AutoTokenizer` load."""
    model.save_pretrained(folder)
    tokens = {k: v for k, v in _SPECIAL.items() if tokenizer.token_to_id(v) is not None}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **tokens,
    ).save_pretrained(folder)


_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


@torch.no_grad()
def _write_golden(
    model: Any, tokenizer: Tokenizer, folder: Path, texts: Sequence[str], max_tokens: int
) -> float:
    """Write texts with token ids and logits; return the largest torch-ONNX difference."""
    tokenizer.enable_truncation(max_length=max_tokens)
    sessions = {
        precision: ort.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])
        for precision, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx"))
    }
    worst, lines = 0.0, []
    for text in texts:
        ids = tokenizer.encode(prepare(text)).ids
        feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        logits = {p: s.run(None, feed)[0][0] for p, s in sessions.items()}
        ours = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        worst = max(worst, float(np.abs(ours - logits["fp32"]).max()))
        rounded = {p: [round(float(x), 5) for x in v] for p, v in logits.items()}
        lines.append(
            json.dumps({"text": text, "input_ids": ids, "logits": rounded}, ensure_ascii=False)
        )
    (folder / "golden.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return worst


def _tasks(
    taxonomy: Taxonomy, temperatures: dict[str, float], thresholds: dict[str, float]
) -> list[dict[str, Any]]:
    return [
        {
            "name": task.name,
            "question": task.question_fr,
            "labels": [{"id": label.id, "display": label.display} for label in task.labels],
            "temperature": round(temperatures[task.name], 6),
            "threshold": round(thresholds[task.name], 6),
        }
        for task in taxonomy.tasks
    ]


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    out = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        out[path.relative_to(folder).as_posix()] = {"sha256": digest, "bytes": path.stat().st_size}
    return out
