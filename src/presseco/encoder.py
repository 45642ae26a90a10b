"""Load the pre-trained encoder and its tokenizer, from a folder or the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer

from presseco.errors import ConfigError, EncoderError
from presseco.network import knock
from presseco.text import prepare

#: Files of a checkpoint that are read; everything else in a hub repository stays there.
FILES = ("config.json", "tokenizer.json", "model.safetensors")
#: French prose gives about 4 characters a token with a French vocabulary. Under this, the file was
#: read with the wrong tokenizer class and splits words into letters.
MIN_CHARS_PER_TOKEN = 2.5
#: Share of unknown tokens accepted on French prose; a French vocabulary has none.
MAX_UNKNOWN = 0.1
_SAMPLE = (
    "Le groupe industriel a publié mardi un bénéfice net en hausse de 12 % et relevé ses prévisions "
    "pour l'ensemble de l'année, malgré la hausse des prix de l'énergie."
)


def locate(encoder: str, root: Path) -> Path:
    """Return the folder of `encoder`: a path from `root`, or a hub name that is fetched or cached.

    Raises `EncoderError` at once, with what to do, when the hub cannot be reached.
    """
    local = root / encoder
    if local.is_dir():
        missing = [f for f in FILES if not (local / f).exists()]
        if missing:
            raise EncoderError(
                f"{local}: {', '.join(missing)} missing; expected {', '.join(FILES)}"
            )
        return local
    if encoder.count("/") > 1 or encoder.startswith((".", "/")):
        raise EncoderError(f"{local}: no such folder, and {encoder!r} is no hub name")
    return _fetch(encoder)


def _fetch(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        if all((cached / f).exists() for f in FILES):
            return cached
    except (LocalEntryNotFoundError, OSError):
        pass
    advice = (
        f"{name} is not in the local cache. Either connect to the hub once "
        f"(HF_ENDPOINT, now {constants.ENDPOINT}), or download {', '.join(FILES)} on another "
        "machine and set camembert.encoder to their folder, "
        "or use configs/experiment/camembert-mini.yaml, which needs no hub."
    )
    if constants.HF_HUB_OFFLINE:
        raise EncoderError(f"HF_HUB_OFFLINE is set, and {advice}")
    try:
        knock(constants.ENDPOINT)  # the client itself would retry for up to 46 s
    except OSError as e:
        raise EncoderError(
            f"the hub at {constants.ENDPOINT} cannot be reached ({e}). {advice}"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as e:  # the hub client raises many kinds; all mean "not fetched"
        reason = " ".join(str(e).split())
        raise EncoderError(f"{name}: the hub answered with an error: {reason}. {advice}") from None
    missing = [f for f in FILES if not (folder / f).exists()]
    if missing:
        raise EncoderError(f"{name}: the hub repository has no {', '.join(missing)}")
    return folder


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of `tokenizer.json`; refuse one that is not made for French."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # tokenizers raises nothing more precise
        raise EncoderError(f"{path}: cannot be read: {e}. Copy the file again.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(_SAMPLE, add_special_tokens=False).ids
    if len(_SAMPLE) < MIN_CHARS_PER_TOKEN * len(ids):
        raise EncoderError(
            f"{path}: {len(_SAMPLE) / len(ids):.1f} characters per token on French, at least "
            f"{MIN_CHARS_PER_TOKEN} expected: not a French tokenizer, or damaged."
        )
    no_word = tokenizer.token_to_id("<unk>")
    unknown = ids.count(no_word) if no_word is not None else 0
    if unknown > MAX_UNKNOWN * len(ids):
        raise EncoderError(
            f"{path}: {unknown} of {len(ids)} French tokens are unknown to it: not a French "
            "tokenizer, or damaged."
        )
    return tokenizer


def load_model(folder: Path, task_map: list[list[Any]], dropout: float = 0.1) -> Any:
    """Return a `CamembertForSequenceClassification`: the encoder with a new flat head.

    One logit a label of every task; `config.task_map` says which logits are whose. Encoder weights
    that the checkpoint lacks are an error: a half-random encoder trains, and scores badly, without
    a word.
    """
    from transformers import CamembertForSequenceClassification

    declared = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if declared.get("model_type") != "camembert":
        raise EncoderError(
            f"{folder}: model_type is {declared.get('model_type')!r}; expected 'camembert'"
        )
    names = [f"{task}:{label}" for task, labels in task_map for label in labels]
    try:
        model, info = CamembertForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={n: i for i, n in enumerate(names)},
            hidden_dropout_prob=dropout,
            # Training applies none inside attention (`states`), and in transformers' own layers it would
            # force PyTorch's unfused kernel.
            attention_probs_dropout_prob=0.0,
            classifier_dropout=dropout,
            dtype="float32",
            output_loading_info=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:300]
        raise EncoderError(f"{folder}: the checkpoint cannot be loaded: {reason}") from e
    lost = [k for k in info["missing_keys"] if not k.startswith("classifier.")]
    if lost:
        raise EncoderError(
            f"{folder}: {len(lost)} encoder weights are not in the checkpoint, e.g. {sorted(lost)[0]}"
        )
    model.config.task_map = task_map
    return model


def check_fit(tokenizer: Tokenizer, model: Any, max_tokens: int) -> None:
    """Refuse a tokenizer whose ids mean something else to the model, or more tokens than it takes.

    Such a pair trains without an error, or fails hours later on the first rare token.
    """
    config = model.config
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise EncoderError(
            f"tokenizer.json has {tokenizer.get_vocab_size():,} tokens, the model "
            f"{config.vocab_size:,}: they are not of one checkpoint."
        )
    for token, expected in (
        ("<pad>", config.pad_token_id),
        ("<s>", config.bos_token_id),
        ("</s>", config.eos_token_id),
    ):
        if tokenizer.token_to_id(token) != expected:
            raise EncoderError(
                f"{token} is {tokenizer.token_to_id(token)} in tokenizer.json and {expected} in "
                "config.json: they are not of one checkpoint."
            )
    room = config.max_position_embeddings - 2  # positions are counted from the padding id, 1, on
    if max_tokens > room:
        raise ConfigError(f"camembert.max_tokens is {max_tokens}; this encoder takes {room}")


def token_ids(tokenizer: Any, texts: list[str], max_tokens: int) -> list[list[int]]:
    """Return each prepared text's token ids, cut to `max_tokens` (its beginning is kept)."""
    tokenizer.enable_truncation(max_length=max_tokens)
    return [e.ids for e in tokenizer.encode_batch([prepare(t) for t in texts])]
