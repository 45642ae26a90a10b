"""Going on with pre-training: hidden words, a new word head, the encoder that comes out, resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import experiment, sets, write_lines
from presseco.__main__ import main
from presseco.adapt import Settings, _batches, adapt
from presseco.config import read_config
from presseco.encoder import load_model, load_tokenizer
from presseco.errors import ConfigError, SourceError
from presseco.masked import Game, cut, load_masked
from presseco.steps import take_steps
from presseco.taxonomy import read_taxonomy
from presseco.unlabelled import read_texts


@pytest.fixture(scope="module")
def texts(rows, tmp_path_factory) -> Path:
    """A folder as a user has it: a file of rows, single articles, an English page, a duplicate."""
    folder = tmp_path_factory.mktemp("texts")
    write_lines(folder / "rows.jsonl", [{"text": r["text"]} for r in rows[:60]])
    (folder / "one.txt").write_text(rows[60]["text"], "utf-8")
    (folder / "again.txt").write_text(rows[60]["text"], "utf-8")
    english = (
        "The company said on Tuesday that its profit rose by a third in the last quarter. " * 4
    )
    (folder / "english.md").write_text(english, "utf-8")
    return folder


def test_texts_of_a_folder_with_what_was_left_out(texts, template):
    taxonomy = read_taxonomy(template / "configs" / "taxonomy.yaml")
    found, left_out = read_texts(texts, taxonomy)
    assert len(found) == 61 and left_out["duplicate"] == 1 and sum(left_out.values()) == 2
    with pytest.raises(SourceError, match="no French article found"):
        read_texts(texts / "english.md", taxonomy)


# --- hidden words -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def game(tiny_encoder) -> Game:
    model, _ = load_masked(tiny_encoder, [[0, 5, 6, 2]])
    return Game(model, tiny_encoder, bf16=False)


def test_whole_words_are_hidden_and_never_the_ends(game, tiny_encoder):
    tokenizer = load_tokenizer(tiny_encoder)
    text = "Le conglomérat métallurgique Valdorane restructurera ses hauts-fourneaux ardennais."
    ids = [0, *tokenizer.encode(text, add_special_tokens=False).ids, 2]
    tokens = [tokenizer.id_to_token(i) for i in ids]
    words = np.cumsum([t.startswith("▁") or t in ("<s>", "</s>") for t in tokens])
    assert len(set(words)) < len(ids), "some words have several tokens"
    shares, masks = [], []
    for seed in range(400):
        out, where = game.hide(ids, np.random.default_rng(seed))
        assert not where[0] and not where[-1] and where.any()
        for word in set(words):
            assert len(set(where[words == word])) == 1, "a word is hidden whole or not at all"
        assert (out[~where] == np.asarray(ids)[~where]).all()
        shares.append(where.sum() / (len(ids) - 2))
        masks += (out[where] == tokenizer.token_to_id("<mask>")).tolist()
    assert np.mean(shares) == pytest.approx(0.2, abs=0.05)  # 0.15, and at least one word always
    assert np.mean(masks) == pytest.approx(0.8, abs=0.03)


def test_loss_depends_on_the_seed_only(game):
    blocks = [[0, *range(100, 130), 2], [0, *range(200, 210), 2]]
    game.model.eval()
    with torch.no_grad():
        assert float(game.loss(blocks, 3)) == float(game.loss(blocks, 3))
        assert float(game.loss(blocks, 3)) != float(game.loss(blocks, 4))


def test_new_head_predicts_by_frequency_and_shares_the_word_embeddings(tiny_encoder):
    model, new = load_masked(tiny_encoder, [[0, 7, 7, 7, 9, 2]])
    assert new
    bias = model.lm_head.bias
    assert float((bias[7] - bias[9]).detach()) == pytest.approx(np.log(3.1 / 1.1), abs=1e-4)
    assert model.lm_head.decoder.weight is model.roberta.embeddings.word_embeddings.weight
    assert model.lm_head.decoder.bias is model.lm_head.bias


def test_blocks_fit_and_held_out_texts_are_the_same_in_any_order(tiny_encoder, rows):
    tokenizer = load_tokenizer(tiny_encoder)
    some = [r["text"] for r in rows[:40]]
    train, held = cut(tokenizer, some, 48, tiny_encoder)
    assert max(map(len, train)) == 48 and all(b[0] == 0 and b[-1] == 2 for b in train + held)
    _, again = cut(tokenizer, some[::-1], 48, tiny_encoder)
    assert sorted(again) == sorted(held)
    with pytest.raises(ConfigError, match="this encoder takes 512"):
        cut(tokenizer, some, 600, tiny_encoder)
    with pytest.raises(ConfigError, match="leave none to train on"):
        cut(tokenizer, some[:1], 48, tiny_encoder)


def test_part_of_a_pass_takes_part_of_the_batches():
    train = [[0] * 9] * 80
    settings = Settings(batch_size=8)
    assert [len(_batches(train, e, settings)) for e in (0.2, 1, 2.5)] == [2, 10, 25]


# --- steps ------------------------------------------------------------------------------------


def test_steps_that_go_on_end_with_the_same_weights(tmp_path):
    seen: list[int] = []

    def run(folder: Path, stop: int = 99) -> tuple[int, torch.Tensor]:
        seen.clear()
        weight = {"w": torch.nn.Parameter(torch.ones(4, 3))}

        def loss(step: int) -> torch.Tensor:
            if step == stop:
                raise KeyboardInterrupt
            seen.append(step)
            return ((weight["w"] * torch.randn(4, 3) - step) ** 2).mean()  # drawn by step

        settings = {"total": 20, "rate": 0.1, "warmup": 0.1, "seconds": 0.0}
        begin = take_steps(weight, loss, folder=folder, **settings)
        return begin, weight["w"].detach()

    begin, whole = run(tmp_path / "whole")
    assert begin == 0 and seen == list(range(20))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=7)
    assert seen == list(range(7))
    begin, resumed = run(tmp_path / "cut")
    assert begin == 7 and seen == list(range(7, 20))
    assert torch.equal(resumed, whole)
    assert not torch.equal(whole, torch.ones(4, 3))


# --- the whole --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def formulas(tmp_path_factory) -> Path:
    """Eighty articles of set phrases: what stands around a hidden word tells which it is."""
    phrases = [
        "Le titre de la banque recule de trois pour cent à la Bourse de Paris.",
        "Les analystes attendaient mieux des ventes de la fin de l'année.",
        "La direction confirme ses prévisions pour le second semestre.",
        "Le chiffre d'affaires progresse grâce aux commandes venues d'Asie.",
        "Les syndicats demandent une réunion extraordinaire du comité.",
        "Le groupe va fermer deux usines et supprimer des postes en Alsace.",
        "Un tribunal de commerce examinera les offres de reprise lundi matin.",
        "Le constructeur rappelle des voitures dont les freins sont défectueux.",
    ]
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.permutation(phrases)[:6])} for _ in range(80)]
    folder = tmp_path_factory.mktemp("formulas")
    write_lines(folder / "rows.jsonl", rows)
    return folder


LEARN = Settings(epochs=12, head_epochs=4.0, rate=1e-2, head_rate=2e-2, batch_size=8, max_tokens=48)


@pytest.mark.services
def test_held_out_loss_falls_and_the_encoder_is_accepted(project, formulas):
    _without_dropout(project / "models" / "encoder")
    config = read_config(experiment(project, "camembert-mini"))
    out = project / "models" / "adapted"
    done = adapt(config, formulas, out, LEARN)
    assert done.after < done.before - 0.3 and done.before < done.start
    note = json.loads((out / "adapt.json").read_text("utf-8"))
    assert note["after"] == done.after and note["settings"]["rate"] == LEARN.rate
    assert (out / "NOTICE").exists() and not list((project / "build" / "adapt").iterdir())

    taxonomy = read_taxonomy(project / "configs" / "taxonomy.yaml")
    before, after = (
        load_model(f, taxonomy.task_map).roberta.state_dict()
        for f in (project / "models" / "encoder", out)
    )
    assert all(not torch.equal(before[n], after[n]) for n in before if "query.weight" in n)
    # The word head is there the second time, and is not made anew.
    model, new = load_masked(out, [[0, 5, 2]])
    _, held = cut(load_tokenizer(out), *_texts(formulas, taxonomy), 48, out)
    assert not new
    assert Game(model, out, bf16=False).held_out_loss(held) == pytest.approx(done.after, abs=0.01)


def _without_dropout(folder: Path) -> None:
    """Replace the tiny encoder by one that learns in seconds: usual first weights, no dropout."""
    from transformers import CamembertConfig, CamembertModel

    declared = json.loads((folder / "config.json").read_text("utf-8"))
    change = {"initializer_range": 0.05, "hidden_dropout_prob": 0.0}
    torch.manual_seed(0)
    config = CamembertConfig(**(declared | change | {"attention_probs_dropout_prob": 0.0}))
    CamembertModel(config, add_pooling_layer=False).save_pretrained(folder)


def _texts(folder: Path, taxonomy: Any) -> list[list[str]]:
    return [read_texts(folder, taxonomy)[0]]


@pytest.mark.services
def test_adapt_that_was_cut_off_goes_on_and_ends_the_same(
    template, formulas, tmp_path, monkeypatch
):
    settings = replace(LEARN, epochs=2, head_epochs=1.0, checkpoint_seconds=0.0)
    outs = []
    for name in ("whole", "cut"):
        project = Path(shutil.copytree(template, tmp_path / name))
        config = read_config(experiment(project, "camembert-mini"))
        if name == "cut":
            with monkeypatch.context() as patch:
                patch.setattr("presseco.adapt.take_steps", _stop_at_words)
                with pytest.raises(KeyboardInterrupt):
                    adapt(config, formulas, project / "out", settings)
            assert not (project / "out").exists()
            assert len(list((project / "build" / "adapt").glob("*/*/checkpoint.safetensors"))) == 2
        seen: dict[str, list[int]] = {"head": [], "words": []}
        with monkeypatch.context() as patch:
            patch.setattr("presseco.adapt.take_steps", partial(_watched, seen))
            adapt(config, formulas, project / "out", settings)
        assert (seen["head"] == []) == (name == "cut")  # its last checkpoint is of its last step
        assert seen["words"] == list(range(5 if name == "cut" else 0, seen["words"][-1] + 1))
        outs.append(load_file(project / "out" / "model.safetensors"))
    assert all(torch.equal(outs[0][n], outs[1][n]) for n in outs[0])


def _stop_at_words(parameters: Any, loss_of: Any, **settings: Any) -> int:
    """Take the steps, but be interrupted at the 6th when the whole model is trained."""
    words = settings["folder"].name == "words"

    def loss(step: int) -> Any:
        if words and step == 5:
            raise KeyboardInterrupt
        return loss_of(step)

    return take_steps(parameters, loss, **settings)


def _watched(seen: dict[str, list[int]], parameters: Any, loss_of: Any, **settings: Any) -> int:
    """Take the steps, and note which."""

    def loss(step: int) -> Any:
        seen[settings["folder"].name].append(step)
        return loss_of(step)

    return take_steps(parameters, loss, **settings)


def test_folder_of_another_encoder_is_not_overwritten(project, texts, capsys, monkeypatch):
    monkeypatch.chdir(project)
    command = ["adapt", "--texts", str(texts), "--output", "models/encoder"]
    assert main([*command, *sets(["corpus.seeds=null"])]) == 1
    assert "holds an encoder that adapt did not write" in capsys.readouterr().err
