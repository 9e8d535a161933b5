"""Of each family: what we compute is what transformers computes, and what we export is what it loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from kobert_core.code_points import strings
from kobert_core.config import OptimConfig
from kobert_core.errors import InputError
from kobert_core.families import FAMILIES, layers_of
from kobert_core.optim import parameter_groups
from kobert_core.pretrained import load_pretrained, save_model_files, save_weights
from kobert_core.runtime import LocalRuntime
from kobert_core.tasks import parse_train_config, task_class
from kobert_core.tasks.base import Task
from kobert_core.training import train
from tests.fixtures.encoders import FAMILIES as TINY
from tests.fixtures.encoders import classification, entities, make_encoder, questions

CONFIGS = {"nsmc": classification, "korquad": questions, "tokens": entities}
AUTO = {
    "nsmc": AutoModelForSequenceClassification,
    "korquad": AutoModelForQuestionAnswering,
    "tokens": AutoModelForTokenClassification,
}
SUFFIX = {"nsmc": ".tsv", "korquad": ".json", "tokens": ".tsv"}


def task_of(name: str, folder: Path, tmp_path: Path, **model: Any) -> Task[Any]:
    config = CONFIGS[name](folder, tmp_path / f"data{SUFFIX[name]}", **model)
    return task_class(name)(config)


def padded(task: Task[Any], rows: np.ndarray) -> dict[str, torch.Tensor]:
    tensors = task.train.batch(rows).padded(task.tokenizer.pad_id)
    takes_types = task.hf_config().model_type not in ("distilbert", "modernbert")
    return {name: tensors[name] for name in ("input_ids", "attention_mask", *["token_type_ids"] * takes_types)}


def logits_of(output: Any) -> list[torch.Tensor]:
    return [output.logits] if hasattr(output, "logits") else [output.start_logits, output.end_logits]


def test_the_tiny_ones_are_of_all_families() -> None:
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_padded_model(family: str, name: str, tmp_path: Path) -> None:
    task = task_of(name, make_encoder(family, tmp_path / "hub"), tmp_path)
    torch.manual_seed(1)
    model = task.build_model()
    its = AutoModel.from_pretrained(tmp_path / "hub").state_dict()
    mine = {key: tensor for key, tensor in model.encoder.state_dict().items() if not key.startswith("pooler")}
    assert mine and all(torch.equal(tensor, its[key]) for key, tensor in mine.items()), "the weights are those stored"
    reference = AUTO[name].from_config(task.hf_config()).train()
    weights = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("boundary.")}
    reference.load_state_dict(weights)
    rows = np.arange(min(12, len(task.train)))
    lengths = task.train.lengths[rows]
    assert len(set(lengths.tolist())) > 1 and lengths.max() == task.longest, "some are padded, some are cut"
    inputs = padded(task, rows)
    mask = inputs["attention_mask"].bool() if name != "nsmc" else slice(None)
    ours = [one[mask] if name == "korquad" else one for one in logits_of(model(**task.train.batch(rows).inputs))]
    theirs = [one[mask] for one in logits_of(reference(**inputs))]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    towards = [torch.randn_like(one) for one in ours]
    for logits in (ours, theirs):
        sum((one * to).sum() for one, to in zip(logits, towards, strict=True)).backward()
    gradients = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
    expected = {key: each.grad for key, each in reference.named_parameters() if each.grad is not None}
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-5, msg=lambda text, key=key: key + text)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_is_what_transformers_loads(family: str, name: str, tmp_path: Path) -> None:
    task = task_of(name, make_encoder(family, tmp_path / "hub"), tmp_path, dropout=0.1, hidden_dropout=0.1)
    model = train(task.config, task, LocalRuntime(device=torch.device("cpu"))).eval()
    save_model_files(tmp_path / "export", task)
    save_weights(tmp_path / "export", type(task), {key: each.clone() for key, each in model.state_dict().items()})
    loaded = AUTO[name].from_pretrained(tmp_path / "export", trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export", trust_remote_code=False)
    again = load_pretrained(tmp_path / "export")
    assert again.task.tokenizer.fingerprint == task.tokenizer.fingerprint
    rows = np.argsort(task.train.lengths)[:1]  # of the shortest nothing is cut off
    inputs = task.train.batch(rows).inputs
    with torch.no_grad():
        expected = logits_of(model(**inputs))
        if name == "nsmc":
            line = task.read_rows(task.data.train).texts[task.train.rows[rows[0]]]
            given = tokenizer(line, return_tensors="pt")
        elif name == "tokens":
            file, alone = task.train.file, np.flatnonzero(np.bincount(task.train.window_text) == 1)[0]
            rows = np.flatnonzero(task.train.window_text == alone)
            given = tokenizer(strings(file["codes"], file["starts"])[task.train.texts[alone]], return_tensors="pt")
            inputs = task.train.batch(rows).inputs
            expected = [one[None] for one in logits_of(model(**inputs))]
        else:
            file, question = task.train.texts, int(task.train.question[rows[0]])
            asked = strings(file["question_codes"], file["question_starts"])[question]
            context = strings(file["codes"], file["starts"])[file["context"][question]]
            encoded = tokenizer(asked, context, truncation="only_second", max_length=60, stride=20, return_tensors="pt")
            given = {key: tensor[:1] for key, tensor in encoded.items()}
            rows = np.flatnonzero(task.train.question == question)[:1]
            inputs = task.train.batch(rows).inputs
            expected = logits_of(model(**inputs))
        assert given["input_ids"][0].tolist() == inputs["input_ids"].tolist()
        torch.testing.assert_close(logits_of(loaded(**given)), expected, rtol=0, atol=1e-5)
        ours = [one[None] if name == "tokens" else one for one in logits_of(again.model(**inputs))]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_rates_fall_from_the_top_layer_to_the_embeddings(family: str, tmp_path: Path) -> None:
    model = task_of("nsmc", make_encoder(family, tmp_path / "hub"), tmp_path).build_model()
    groups = parameter_groups(model, OptimConfig(backbone_lr=1.0, classifier_lr=7.0, layer_decay=0.5, weight_decay=0.1))
    found = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    layers = layers_of(model.encoder)
    for number, layer in enumerate(layers):
        assert {found[id(each)][0] for each in layer.parameters()} == {0.5 ** (len(layers) - number)}
    words = model.encoder.get_input_embeddings().weight
    assert found[id(words)] == (0.5 ** (len(layers) + 1), 0.1)
    head = [each for key, each in model.named_parameters() if not key.startswith(model.encoder_prefix)]
    assert head and {found[id(each)][0] for each in head} == {7.0}
    norms = [one for one in model.modules() if isinstance(one, torch.nn.LayerNorm)]
    assert norms and {found[id(each)][1] for one in norms for each in one.parameters()} == {0.0}
    assert len(found) == len(list(model.parameters()))


@pytest.mark.parametrize("how", ["whole", "half precision", "shards"])
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "deberta-v2", "modernbert"])
def test_the_checkpoint_of_a_masked_language_model_is_a_backbone(family: str, how: str, tmp_path: Path) -> None:
    make_encoder(family, tmp_path / "hub", AutoModelForMaskedLM)
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path / "hub")
    if how == "half precision":
        masked.half().save_pretrained(tmp_path / "hub")
    elif how == "shards":
        (tmp_path / "hub" / "model.safetensors").unlink()
        masked.save_pretrained(tmp_path / "hub", max_shard_size="20KB")
        assert len(list((tmp_path / "hub").glob("model-*.safetensors"))) > 1
    task = task_of("nsmc", tmp_path / "hub", tmp_path)
    task.check_model()
    encoder = task.build_model().encoder
    expected = masked.base_model.state_dict()
    for key, tensor in encoder.state_dict().items():
        assert key.startswith("pooler.") or torch.equal(tensor, expected[key].float()), key
    assert task.hf_config().dtype in (None, torch.float32), "or transformers would load it in half precision"


def test_checkpointed_layers_give_the_same_bits(tmp_path: Path) -> None:
    for family in ("modernbert", "deberta-v2", "electra"):
        task = task_of("nsmc", make_encoder(family, tmp_path / family), tmp_path)
        runs = []
        for checkpointing in (False, True):
            run = task.config.train.model_copy(update={"gradient_checkpointing": checkpointing})
            config = task.config.model_copy(update={"train": run})
            runs.append(
                train(config, task_class("nsmc")(config), LocalRuntime(device=torch.device("cpu"))).state_dict()
            )
        assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


@pytest.mark.parametrize(
    ("family", "projection"), [("deberta-v2", "value_proj"), ("modernbert", "Wqkv"), ("bert", "query")]
)
def test_checkpointed_layers_are_computed_again(family: str, projection: str, tmp_path: Path) -> None:
    task = task_of("nsmc", make_encoder(family, tmp_path / family), tmp_path)
    model, calls = task.build_model().train(), list[str]()
    model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    for name, module in layers_of(model.encoder)[0].named_modules():
        if name.endswith(projection):
            module.register_forward_hook(lambda *_: calls.append(projection))
    task.loss(model, task.train.batch(np.arange(4))).backward()
    assert len(calls) == 2


# What trips people


def test_positions_of_roberta_begin_after_padding(tmp_path: Path) -> None:
    make_encoder("roberta", tmp_path / "hub", max_position_embeddings=50)
    task_of("nsmc", tmp_path / "hub", tmp_path).check_model()
    make_encoder("roberta", tmp_path / "less", max_position_embeddings=49)
    with pytest.raises(InputError, match=r"examples of 48 tokens are longer than the encoder's 47 positions"):
        task_of("nsmc", tmp_path / "less", tmp_path).check_model()


def test_a_pad_id_that_is_not_the_tokenizers_is_refused_where_positions_depend_on_it(tmp_path: Path) -> None:
    make_encoder("roberta", tmp_path / "hub", pad_token_id=0)
    with pytest.raises(InputError, match=r"pads with 1, but positions of .* begin after its `pad_token_id` 0"):
        task_of("nsmc", tmp_path / "hub", tmp_path).check_model()


def test_a_pair_without_token_types_needs_a_family_that_can_do_without(tmp_path: Path) -> None:
    task_of("korquad", make_encoder("roberta", tmp_path / "roberta"), tmp_path).check_model()
    make_encoder("electra", tmp_path / "electra", type_vocab_size=1)
    with pytest.raises(InputError, match=r"tells 1 kind\(s\) of tokens apart, but an example has 2"):
        task_of("korquad", tmp_path / "electra", tmp_path).check_model()


def test_a_roberta_with_the_tokenizer_of_bert_is_given_no_token_types(tmp_path: Path) -> None:
    """As `klue/roberta-base` is: with the types that its tokenizer gives transformers looks for embeddings in vain."""
    from tests.fixtures.tokenizers import wordpiece

    tokenizer = wordpiece(tmp_path)
    make_encoder("roberta", tmp_path / "hub", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_id)
    for file in (tmp_path / "hub").glob("*token*.json"):
        file.unlink()
    tokenizer.save_pretrained(tmp_path / "hub")
    task = task_of("korquad", tmp_path / "hub", tmp_path)
    inputs = task.train.batch(np.arange(3)).inputs
    assert (task.tokenizer.pair_separators, task.tokenizer.pair_type) == (1, 0) and not inputs["token_type_ids"].any()
    save_model_files(tmp_path / "export", task)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "export")("정말", "정말")


def test_new_encoders_of_a_family_that_the_study_names(tmp_path: Path) -> None:
    config = {"model_type": "electra", **TINY["electra"][1]}
    folder = make_encoder("electra", tmp_path / "hub")
    model = {"backbone": None, "tokenizer": str(folder), "init": "random", "config": config}
    assert task_of("nsmc", folder, tmp_path, **model).build_model().encoder.config.model_type == "electra"
    with pytest.raises(InputError, match="`gpt2` is no family of encoders that is known; use one of bert, roberta"):
        task_of("nsmc", folder, tmp_path, **model | {"config": {"model_type": "gpt2"}}).check_model()
    with pytest.raises(InputError, match=r"`dim` is no value of transformers\.ElectraConfig"):
        task_of("nsmc", folder, tmp_path, **model | {"config": config | {"dim": 3}}).check_model()


# Real encoders


@pytest.mark.parametrize(("encoder", "name"), [("e5-korean", "nsmc"), ("e5-korean", "korquad"), ("e5-kobert", "nsmc")])
def test_real_encoders_are_loaded_run_and_exported(encoder: str, name: str, shared: Path, tmp_path: Path) -> None:
    """In half precision, without a pooler; one has KoBERT's pieces and the other its own, with two separators."""
    file = {"nsmc": "nsmc/ratings_test.txt", "korquad": "korquad/KorQuAD_v1.0_dev.json"}[name]
    data = {"train": shared / "data" / file, "max_train_examples": 8, "max_dev_examples": 4}
    model = {"backbone": str(shared / "models" / encoder)}
    task = task_class(name)(parse_train_config({"task": name, "data": data, "model": model}))
    task.check_model()
    torch.manual_seed(0)
    built = task.build_model().eval()
    save_model_files(tmp_path / "export", task)
    save_weights(tmp_path / "export", type(task), built.state_dict())
    loaded = AUTO[name].from_pretrained(tmp_path / "export").eval()
    rows = np.argsort(-task.train.lengths)[:4]
    inputs = padded(task, rows)
    mask = inputs["attention_mask"].bool() if name == "korquad" else slice(None)
    with torch.no_grad():
        ours = [one[mask] for one in logits_of(built(**task.train.batch(rows).inputs))]
        theirs = [one[mask] for one in logits_of(loaded(**inputs))]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert loaded.dtype == torch.float32
    tokens = inputs["input_ids"][0].tolist()
    ends = [place for place, one in enumerate(tokens) if one == task.tokenizer.sep_id]
    if name == "korquad":
        assert ends[0] + 1 == ends[1], "the question ends with two separators"


def test_the_positions_of_kcbert_are_too_few_for_the_windows_of_korquad(shared: Path, tmp_path: Path) -> None:
    for file in ("vocab.txt", "config.json"):
        shutil.copyfile(shared / "models/kcbert-base" / file, tmp_path / file)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    data = {"train": shared / "data/korquad/KorQuAD_v1.0_dev.json"}
    model = {"backbone": str(tmp_path), "init": "random"}
    task = task_class("korquad")(parse_train_config({"task": "korquad", "data": data, "model": model}))
    with pytest.raises(InputError, match="examples of 384 tokens are longer than the encoder's 300 positions"):
        task.build_on_meta()
