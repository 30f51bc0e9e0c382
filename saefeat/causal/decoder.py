"""Batches of texts that are being continued under the KV cache, and what is kept of them for when they go on.

Rows are padded on the left. A row that has ended leaves the batch. A conversation that is continued a second time need
not be read anew: `Memory` holds the keys and values of the rows that were continued last, and a decoder starts from as
much of each row as it knows. The columns are those of a batch that is read whole, so interventions see no difference.

Shapes: B rows, T tokens of a pass, P columns known before, H heads, W width of a head, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saefeat.subject import Subject


@dataclass(frozen=True)
class Row:
    """Token ids, and for each layer their keys and values, (H, T, W), on the CPU."""

    ids: list[int]
    layers: list[tuple[Tensor, ...]]


class Memory:
    """Keys and values of the rows that were continued last, T x layers x 2 H W numbers in the model's dtype each, in
    the machine's memory, not the device's.

    They are those of one model under the same interventions: with others (`belongs_to`) all of it is forgotten.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.owner: list[object] = []

    def belongs_to(self, *owner: object) -> None:
        """Forget the rows unless they were kept for the very same objects."""
        if len(owner) != len(self.owner) or any(a is not b for a, b in zip(owner, self.owner, strict=True)):
            self.rows, self.owner = [], list(owner)

    def best(self, ids: Sequence[int]) -> tuple[int, Row | None]:
        """How many of the first tokens of a text are known, and the row that knows them. The last never counts: its
        logits are wanted."""
        found, known = None, 0
        for row in self.rows:
            same = _common(row.ids, ids[:-1])
            if same > known:
                found, known = row, same
        return known, found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


class Decoder:
    """A batch under the KV cache. mask_BT: True at the real tokens of the prompts."""

    def __init__(self, subject: Subject, mask_BT: Tensor) -> None:
        from transformers import DynamicCache

        self.model: Any = subject.model
        self.device = subject.device
        self.mask_BT = mask_BT.to(self.device, torch.long)
        self.cache = DynamicCache(config=self.model.config)
        takes = inspect.signature(self.model.forward).parameters
        # by index, so that the last column is a copy: of a slice torch's bfloat16 product takes 600 times as long
        self.extra = {"logits_to_keep": torch.tensor([-1])} if "logits_to_keep" in takes else {}

    @torch.inference_mode()
    def step(self, ids_BT: Tensor) -> Tensor:
        """(B, V) float32 logits of what comes after ids_BT: first what of the prompt is not known, later one token a
        row."""
        T, known = ids_BT.shape[1], self.cache.get_seq_length()
        more = known + T - self.mask_BT.shape[1]
        if more > 0:
            self.mask_BT = torch.cat([self.mask_BT, self.mask_BT.new_ones(len(ids_BT), more)], dim=1)
        out = self.model(
            input_ids=ids_BT.to(self.device), attention_mask=self.mask_BT, past_key_values=self.cache, use_cache=True,
            position_ids=positions(self.mask_BT)[:, -T:], **self.extra,
        )  # fmt: skip
        return out.logits[:, -1].float()

    def recall(self, prompts: Sequence[Sequence[int]], memory: Memory) -> int:
        """Start from what the memory knows of the prompts, which were padded to the columns of the mask: how many
        columns need not be fed. The row of which least is known decides, since all rows are fed the same columns."""
        best = [memory.best(ids) for ids in prompts]
        fed = max(len(ids) - known for ids, (known, _) in zip(prompts, best, strict=True))
        P = max(map(len, prompts)) - fed
        if P <= 0:
            return 0
        layers = next(row.layers for _, row in best if row is not None)
        for number, like in enumerate(layers):
            both = []
            for side, like_HTW in enumerate(like):
                H, _, W = like_HTW.shape
                part_BHPW = like_HTW.new_zeros(len(prompts), H, P, W)
                for b, (ids, (_, row)) in enumerate(zip(prompts, best, strict=True)):
                    own = len(ids) - fed
                    if own > 0 and row is not None:
                        part_BHPW[b, :, P - own :] = row.layers[number][side][:, :own]
                both.append(part_BHPW.to(self.device))
            self.cache.update(both[0], both[1], number)
        return P

    def remember(self, b: int, ids: Sequence[int]) -> Row | None:
        """Row b as a memory holds it; ids: its tokens. None where a layer holds less than all of them (a window that
        slides, a state)."""
        known = self.cache.get_seq_length()
        first = int(self.mask_BT[b].argmax())
        layers: list[Any] = self.cache.layers
        if any(getattr(layer, "keys", None) is None or layer.keys.shape[-2] < known for layer in layers):
            return None
        kept = [tuple(side[b, :, first:].to("cpu", copy=True) for side in (one.keys, one.values)) for one in layers]
        return Row(list(ids[: known - first]), kept)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        index = torch.tensor(rows, device=self.device)
        self.cache.batch_select_indices(index)
        self.mask_BT = self.mask_BT[index]


def positions(mask_BT: Tensor) -> Tensor:
    """(B, T) each token's position among the real tokens of its row; 0 at padding on the left."""
    return (mask_BT.long().cumsum(1) - 1).clamp(min=0)


def left_padded(rows: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT of rows of token ids, padded on the left."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return ids_BT, mask_BT
