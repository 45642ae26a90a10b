"""The encoder: from a folder, from a hub, and what is refused on the way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from conftest import ROOT, SHRINK, experiment, sets
from local_hub import Hub, serving
from presseco.encoder import check_fit, load_model, load_tokenizer, locate
from presseco.errors import ConfigError, EncoderError
from presseco.taxonomy import read_taxonomy

TASKS = [["a", ["x", "y"]], ["b", ["u", "v", "w"]]]
NAME = "almanach/camembert-base"


# --- from a folder ----------------------------------------------------------------------------


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def test_folder_is_found_from_the_project(encoder):
    assert locate("encoder", encoder.parent) == encoder


def test_folder_that_lacks_files(encoder):
    (encoder / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=r"encoder: tokenizer\.json missing; expected config"):
        locate("encoder", encoder.parent)


@pytest.mark.parametrize("name", ["models/deep/encoder", "./encoder", "/nowhere/encoder"])
def test_path_that_is_no_folder_is_not_sought_on_the_hub(tmp_path, name):
    with pytest.raises(EncoderError, match=r"no such folder, and .* is no hub name"):
        locate(name, tmp_path)


def test_head_is_new_flat_and_named(encoder):
    model = load_model(encoder, TASKS)
    assert model.config.num_labels == 5 and model.config.task_map == TASKS
    assert model.config.id2label == {0: "a:x", 1: "a:y", 2: "b:u", 3: "b:v", 4: "b:w"}


def test_encoder_weights_are_those_of_the_file(encoder):
    from safetensors.torch import load_file

    stored = load_file(encoder / "model.safetensors")
    ours = load_model(encoder, TASKS).roberta.state_dict()
    assert set(stored) <= set(ours)
    assert all(torch.equal(ours[k], v) for k, v in stored.items())


@pytest.mark.parametrize("part", ["encoder.layer.1.", "embeddings.word_embeddings"])
def test_missing_encoder_weights_are_refused(encoder, part):
    from safetensors.torch import load_file, save_file

    path = encoder / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(part)}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(EncoderError, match=rf"encoder weights are not in the checkpoint.*{part}"):
        load_model(encoder, TASKS)


def test_another_architecture_is_refused(encoder):
    path = encoder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "bert"}))
    with pytest.raises(EncoderError, match="model_type is 'bert'; expected 'camembert'"):
        load_model(encoder, TASKS)


def test_real_tokenizer_is_accepted_and_gives_the_known_tokens():
    tokenizer = load_tokenizer(ROOT / "models" / "encoder")
    tokens = tokenizer.encode("Le groupe a publié un bénéfice.").tokens
    assert tokens[0] == "<s>" and tokens[-1] == "</s>" and len(tokens) <= 12


def test_tokenizer_that_splits_french_into_letters_is_refused(encoder):
    """What a WordPiece file read with the wrong class does: one token a letter."""
    from tokenizers import models, pre_tokenizers

    letters = Tokenizer(models.BPE({"<unk>": 0}, [], unk_token="<unk>", fuse_unk=False))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.save(str(encoder / "tokenizer.json"))
    with pytest.raises(EncoderError, match=r"1\.\d characters per token on French"):
        load_tokenizer(encoder)


def test_tokenizer_that_knows_nothing_is_refused(encoder):
    from tokenizers import models, pre_tokenizers

    empty = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    empty.pre_tokenizer = pre_tokenizers.Whitespace()
    empty.save(str(encoder / "tokenizer.json"))
    with pytest.raises(EncoderError, match="unknown"):
        load_tokenizer(encoder)


def test_damaged_tokenizer_is_refused(encoder):
    (encoder / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(encoder)


def test_damaged_weights_are_refused(encoder):
    path = encoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_model(encoder, TASKS)


def test_tokenizer_and_model_of_one_checkpoint_fit(encoder):
    check_fit(load_tokenizer(encoder), load_model(encoder, TASKS), 512)


def test_more_tokens_than_positions(encoder):
    with pytest.raises(ConfigError, match="max_tokens is 513; this encoder takes 512"):
        check_fit(load_tokenizer(encoder), load_model(encoder, TASKS), 513)


def test_tokenizer_with_more_tokens_than_the_model_is_refused(encoder):
    tokenizer = load_tokenizer(encoder)
    tokenizer.add_tokens(["⟦nouveau⟧"])
    with pytest.raises(EncoderError, match="24,001 tokens, the model 24,000"):
        check_fit(tokenizer, load_model(encoder, TASKS), 64)


def test_tokenizer_with_other_special_ids_is_refused(encoder, camembert_base):
    with pytest.raises(EncoderError, match=r"<s> is 5 in tokenizer\.json and 0 in config\.json"):
        check_fit(load_tokenizer(camembert_base), load_model(encoder, TASKS), 64)


# --- from the hub -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camembert_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in the file layout of camembert-base.

    Unigram tokenizer with SentencePiece's own precompiled normalizer, special tokens at 1, 5 and 6
    with their unused doubles, the mask last; masked-LM weights; 514 positions.
    """
    from transformers import CamembertConfig, CamembertForMaskedLM

    folder = tmp_path_factory.mktemp("hub") / "camembert-base"
    size = _write_tokenizer(folder)
    torch.manual_seed(0)
    config = CamembertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.3,  # with the usual 0.02 so small a model gives every text one vector
        pad_token_id=1,
        bos_token_id=5,
        eos_token_id=6,
    )
    CamembertForMaskedLM(config).save_pretrained(folder)
    (folder / "README.md").write_text("not fetched")
    (folder / "pytorch_model.bin").write_bytes(b"not fetched")
    return folder


def _write_tokenizer(folder: Path) -> int:
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    lines = (ROOT / "data" / "articles" / "first-600.jsonl").read_text("utf-8").splitlines()
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(t for r in lines for t in json.loads(r)["text"].split("\n")),
        model_writer=trained,
        vocab_size=2000,
        minloglevel=2,
        num_threads=1,
    )
    model = proto.ModelProto.FromString(trained.getvalue())
    unused = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0)]
    pieces = [(p.piece, p.score) for p in model.pieces[1:]]
    vocab = [*unused, ("<unk>NOTUSED", -100.0), *pieces, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(" {2,}", " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 5), ("</s>", 6)],
    )
    tokenizer.add_special_tokens(["<pad>", "<unk>", "<s>", "</s>", "<mask>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocab)


def online(hub: str, cache: Path) -> dict[str, str]:
    """Return the environment of a process that may reach one hub, with a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    kept.pop("HF_HUB_OFFLINE", None)
    return {**kept, "HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}


def train(project: Path, env: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "presseco", "train", experiment(project, "camembert-base")]
    overrides = [*SHRINK, "tracking.register=false", *more]
    return subprocess.run(
        [*command, *sets(overrides)],
        env=env,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
    )


def fetch(hub: Hub | str, cache: Path, name: str = NAME) -> subprocess.CompletedProcess[str]:
    """Locate a model in a process of its own, as the hub client reads its settings at import."""
    code = (
        "import sys; from pathlib import Path\n"
        "from presseco.encoder import locate\n"
        "from presseco.errors import ConfigError, EncoderError\n"
        "try: print(locate(sys.argv[1], Path('/nowhere')))\n"
        "except EncoderError as e: sys.exit(f'EncoderError: {e}')\n"
    )
    url = hub if isinstance(hub, str) else hub.url
    return subprocess.run(
        [sys.executable, "-c", code, name],
        env=online(url, cache),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_hub_layout_is_that_of_camembert_base(camembert_base):
    tokenizer = json.loads((camembert_base / "tokenizer.json").read_text("utf-8"))
    assert tokenizer["normalizer"]["normalizers"][0]["type"] == "Precompiled"
    assert len(tokenizer["normalizer"]["normalizers"][0]["precompiled_charsmap"]) > 100_000
    vocab = [p for p, _ in tokenizer["model"]["vocab"]]
    assert vocab[:7] == [
        *("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"),
        *("<s>", "</s>"),
    ]
    assert vocab[-1] == "<mask>"
    french = load_tokenizer(camembert_base)
    ids = french.encode("Le ﬁnancement de l'année…").ids
    assert (ids[0], ids[-1]) == (5, 6) and 3 not in ids
    assert ids == french.encode("Le financement de l'année...").ids, "ﬁ was not decomposed"


def test_whole_job_on_a_model_of_the_hub(project, camembert_base, tmp_path):
    """Fetch, fine-tune, export and load a checkpoint as camembert-base has it; then offline."""
    from presseco import Classifier

    with serving({NAME: camembert_base}) as hub:
        env = online(hub.url, tmp_path / "cache")
        done = train(project, env)
        assert done.returncode == 0, done.stderr
        fetched = {p.rsplit("/", 1)[1] for p in hub.log if "/resolve/" in p}
        assert fetched == {"config.json", "tokenizer.json", "model.safetensors"}
        hub.broken = True
        hub.log.clear()
        again = fetch(hub, tmp_path / "cache")
        assert again.returncode == 0 and not hub.log, "a cached model was asked for again"
    model = Classifier.load(project / "dist" / "camembert-base")
    [answer] = model.predict(["Le groupe a publié mardi un bénéfice net en hausse de 12 %."])
    taxonomy = read_taxonomy(project / "configs" / "taxonomy.yaml")
    assert all(answer[t].label in taxonomy[t].ids for t in taxonomy.names)
    golden = (project / "dist" / "camembert-base" / "golden.jsonl").read_text("utf-8").splitlines()
    ids = [json.loads(line)["input_ids"] for line in golden]
    assert all(row[0] == 5 and row[-1] == 6 and 1 not in row for row in ids)


def test_without_a_hub_the_job_fails_at_once_and_says_what_to_do(project, tmp_path):
    import resource

    with socket.socket() as free:  # bound and not listening: nobody answers there
        free.bind(("127.0.0.1", 0))
        env = online(f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path / "cache")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = train(project, env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr and NAME in done.stderr
    assert "set camembert.encoder to their folder" in done.stderr
    assert "configs/experiment/camembert-mini.yaml, which needs no hub" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    # Processor time, as other work on the machine stretches the clock.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert not (project / "build").exists(), "the hub was asked only after the corpus was built"


def test_silent_host_is_given_up_in_seconds(tmp_path):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        started = time.monotonic()
        with socket.create_connection(deaf.getsockname()):  # fills the queue of the listener
            done = fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}", tmp_path)
    assert done.returncode == 1 and time.monotonic() - started < 60


def test_offline_mode_says_so(project):
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE is set, and almanach/camembert-base"):
        locate("almanach/camembert-base", project)


def test_hub_that_does_not_know_the_model(camembert_base, tmp_path):
    with serving({NAME: camembert_base}) as hub:
        done = fetch(hub, tmp_path, "almanach/camembert-bass")
    assert done.returncode == 1
    assert "almanach/camembert-bass: the hub answered with an error" in done.stderr


def test_hub_that_is_out_of_order(camembert_base, tmp_path):
    with serving({NAME: camembert_base}) as hub:
        hub.broken = True
        done = fetch(hub, tmp_path)
    assert done.returncode == 1 and "the hub answered with an error" in done.stderr


def test_hub_repository_without_weights(camembert_base, tmp_path):
    part = Path(shutil.copytree(camembert_base, tmp_path / "part"))
    (part / "model.safetensors").unlink()
    with serving({NAME: part}) as hub:
        done = fetch(hub, tmp_path / "cache")
    assert done.returncode == 1
    assert f"{NAME}: the hub repository has no model.safetensors" in done.stderr


def test_names_are_kept_apart(camembert_base: Path, tmp_path: Path) -> None:
    other: dict[str, Any] = {"a/one": camembert_base, "a/two": camembert_base}
    with serving(other) as hub:
        found = {fetch(hub, tmp_path, name).stdout for name in other}
    assert len(found) == 2
