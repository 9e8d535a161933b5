"""Layers without padding, and of the first tokens alone, against transformers' own with padding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from kobert_core.data.batching import Batch
from kobert_core.models import packed_encoder
from kobert_core.models.packed_encoder import encode, use_packed_attention

LENGTHS = [3, 9, 9, 1, 40, 40]
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "vocab_size": 60}
SIZES |= {"pad_token_id": 0, "initializer_range": 0.2, "max_position_embeddings": 64}
DEBERTA = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
TOKENS = {f"{name}_token_id": 0 for name in ("bos", "cls", "eos", "sep")}
ENCODERS: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("modernbert", TOKENS),
    ("modernbert", TOKENS | {"attention_bias": True, "local_attention": 8}),  # the last layer sees a window alone
    ("deberta-v2", {}),
    ("deberta-v2", DEBERTA | {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}),
    ("deberta-v2", DEBERTA),
    ("deberta-v2", DEBERTA | {"position_buckets": -1, "pos_att_type": "c2p"}),
    ("deberta-v2", DEBERTA | {"max_relative_positions": 16, "pos_att_type": ["p2c"]}),
    ("deberta-v2", DEBERTA | {"conv_kernel_size": 3}),
]


def batch_of(ids: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    mask = torch.ones_like(ids) if mask is None else mask.long()
    return Batch.pack({"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask})


@pytest.mark.parametrize("first_tokens_only", [False, True])
@pytest.mark.parametrize(("kind", "values"), ENCODERS, ids=lambda value: value if isinstance(value, str) else "")
def test_states_and_gradients_are_those_of_the_padded_model(
    kind: str, values: dict[str, Any], first_tokens_only: bool
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | values)
    for dropout in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, dropout, 0.0)
    ours, theirs = (AutoModel.from_config(copy.deepcopy(config)).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    use_packed_attention(ours)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(5, 60, mask.shape).masked_fill(~mask, 0)
    hidden = encode(ours.train(), **batch_of(ids, mask).inputs, first_tokens_only=first_tokens_only)
    reference = theirs.train()(ids, attention_mask=mask.long()).last_hidden_state
    expected = reference[:, 0] if first_tokens_only else reference[mask]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-6)
    towards = torch.randn_like(expected)
    (hidden * towards).sum().backward()
    (expected * towards).sum().backward()
    for (name, own), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=1e-5, msg=name)


def test_a_deberta_is_padded_only_where_it_has_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = []

    def note(encoder: Any, *_: Any) -> torch.Tensor:
        padded.append(encoder)
        return torch.zeros(1, 4, 24)

    monkeypatch.setattr(packed_encoder, "_encode_padded", note)
    for values in (DEBERTA, DEBERTA | {"conv_kernel_size": 3}):
        encoder = AutoModel.from_config(AutoConfig.for_model("deberta-v2", **SIZES, **values))
        encode(encoder, **batch_of(torch.full((1, 4), 7)).inputs, first_tokens_only=True)
    assert padded == [encoder]


def test_dropout_of_disentangled_attention_leaves_its_mean_as_it_is() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("deberta-v2", **SIZES | {"num_hidden_layers": 1}, **DEBERTA)
    encoder = AutoModel.from_config(config)
    attention = encoder.encoder.layer[0].attention.self
    for each in encoder.modules():
        if isinstance(each, torch.nn.Dropout) and each is not attention.dropout:
            each.p = 0.0
    attention.dropout.p = 0.3
    seen: list[torch.Tensor] = []
    encoder.encoder.layer[0].attention.output.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ids = torch.randint(5, 60, (1, 8))
    batch = batch_of(ids)
    for _ in range(2000):
        encode(encoder.train(), **batch.inputs)
    encode(encoder.eval(), **batch.inputs)
    *drawn, expected = seen
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(0), expected, rtol=0, atol=0.05)
