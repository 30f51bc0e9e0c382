"""The subject: the language model studied, with the few things the other rooms ask of it.

Texts are right-padded. In a causal model a token sees only those before it, so right padding cannot reach a real
token and needs no attention mask; masks here only say which positions are real.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import LongTensor, Tensor, nn

from saefeat.errors import InputError, ModelMismatch
from saefeat.files import fingerprint
from saefeat.subject.blocks import find_parts, norm_gain
from saefeat.subject.hooks import Edit, editing, reading

HEAD_ELEMENTS = 1 << 25
"""Logits held at once: 128 MiB in float32."""
PROBE = "It wasn't 3.14, she said:\n\tНет! 不 🙂 <|x|>  two  spaces"
"""A text on which tokenizers of one vocabulary but other rules differ."""


@dataclass(frozen=True)
class Fingerprint:
    """Which model this is, 16 hex digits each.

    architecture: class and dimensions. tokenizer: vocabulary, and the ids of a probe text. weights: see
    `load.weights_fingerprint` for what it covers (names, shapes, dtypes, a sample of the bytes).
    """

    architecture: str
    tokenizer: str
    weights: str

    def check(self, other: Fingerprint, *, allow_other_weights: bool = False, where: object = None) -> None:
        """Raise ModelMismatch if `other`, the model in use, is not this one, the model an artefact was made with."""
        for part in ("architecture", "tokenizer", "weights"):
            mine, theirs = getattr(self, part), getattr(other, part)
            if mine == theirs or (part == "weights" and allow_other_weights):
                continue
            do = "use the model it was made with"
            do += ", or pass --allow-other-weights" if part == "weights" else ""
            raise ModelMismatch(f"was made with another model: its {part} is {mine}, not {theirs}", where=where, do=do)

    def to_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, str]) -> Fingerprint:
        return cls(**{field.name: value[field.name] for field in dataclasses.fields(cls)})


class Subject:
    """A causal language model in evaluation mode, its tokenizer and its fingerprint.

    name, model, tokenizer, device, dtype as given; n_layers, d_model, n_vocab; context: the most positions it takes;
    prefix_ids: what the tokenizer puts before a text, often one BOS, sometimes nothing.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, *, weights: str | None = None) -> None:
        self.name = name
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.parts = find_parts(model)
        config = model.config.get_text_config()
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.n_vocab: int = self.parts.unembedding.weight.shape[0]  # type: ignore[assignment, union-attr, index]
        self.context: int = int(getattr(config, "max_position_embeddings", 0) or 2048)
        self.prefix_ids: tuple[int, ...] = _prefix_ids(tokenizer)
        self.fingerprint = Fingerprint(
            architecture_fingerprint(model), tokenizer_fingerprint(tokenizer), weights or _live_fingerprint(model)
        )

    # ------------------------------------------------------------ layers
    @property
    def blocks(self) -> nn.ModuleList:
        return self.parts.blocks

    def check_layer(self, layer: int) -> int:
        """`layer` if the model has it. Raises InputError."""
        if not 0 <= layer < self.n_layers:
            raise InputError(f"{self.name} has no layer {layer}", do=f"use 0 to {self.n_layers - 1}")
        return layer

    def hook_point(self, layer: int) -> str:
        """The HF module path whose output is read: 'model.layers.20'."""
        return f"{self.parts.path}.{self.check_layer(layer)}"

    # ------------------------------------------------------------ tokens
    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text` alone: no prefix, nothing after it."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """What each token reads as, spaces kept (' rent'); joined they are the text.

        A character spread over several tokens stands at its last token, the ones before it are ''.
        """
        strings: list[str] = []
        pending: list[int] = []
        for token in ids:
            pending.append(int(token))
            text = self._decode(pending)
            whole = "\N{REPLACEMENT CHARACTER}" not in text
            if not whole and len(pending) < 4:  # a character takes at most 4 bytes
                strings.append("")
                continue
            strings.append(text)
            pending = []
        if pending:
            strings[-1] = self._decode(pending)
        return strings

    def _decode(self, ids: list[int]) -> str:
        # decoders of the sentencepiece kind drop the space that starts a text: a letter before it keeps it
        anchor = self._anchor
        both = self.tokenizer.decode(anchor + ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return both[len(self.tokenizer.decode(anchor, clean_up_tokenization_spaces=False)) :]

    @property
    def _anchor(self) -> list[int]:
        return self.tokenize("a")[-1:]

    # ------------------------------------------------------------ forward passes
    def residuals(
        self, ids_BT: LongTensor | Tensor, layers: Sequence[int], mask_BT: Tensor | None = None
    ) -> dict[int, Tensor]:
        """The residual streams {layer: x_BTD} after the given blocks, in the model's dtype, on its device.

        ids_BT: right-padded token ids, prefix included. mask_BT: True at real tokens; checked, not otherwise
        needed (see the module's docstring): positions of padding hold garbage. Blocks after the last layer asked
        for, and the LM head, are not run. Raises InputError: no such layer, too long, left padding.
        """
        if not layers:
            return {}
        for layer in layers:
            self.check_layer(layer)
        ids_BT = self._checked(ids_BT, mask_BT)
        with torch.inference_mode(), reading(self.blocks, layers) as x:
            self._base(ids_BT)
        return x

    def losses(
        self, ids_BT: LongTensor | Tensor, mask_BT: Tensor | None = None, edits: Mapping[int, Edit] | None = None
    ) -> Tensor:
        """Next-token cross-entropy in nats, (B, T-1) float32; NaN where the next token is padding.

        edits: {layer: f} replaces a block's output x_BTD by f(x_BTD) before the next block sees it.
        """
        for layer in edits or ():
            self.check_layer(layer)
        ids_BT = self._checked(ids_BT, mask_BT)
        with torch.inference_mode(), editing(self.blocks, edits or {}):
            h_BTD = self._base(ids_BT).last_hidden_state[:, :-1]
            h_ND, next_N = h_BTD.reshape(-1, h_BTD.shape[-1]), ids_BT[:, 1:].reshape(-1)
            rows = max(1, HEAD_ELEMENTS // self.n_vocab)
            parts = [
                nn.functional.cross_entropy(self._logits(h_ND[i : i + rows]), next_N[i : i + rows], reduction="none")
                for i in range(0, len(h_ND), rows)
            ]
            losses_BT = torch.cat(parts).view(len(ids_BT), -1) if parts else h_BTD.new_zeros(len(ids_BT), 0).float()
            if mask_BT is not None:
                losses_BT = losses_BT.masked_fill(~mask_BT[:, 1:].to(self.device, torch.bool), torch.nan)
            return losses_BT

    def unembed(self, x_ND: Tensor) -> Tensor:
        """The logit lens of directions: (N, V) float32 logits that x_ND, in the residual stream, writes.

        The final norm's gain (and centring, if it is a layer norm) is applied, its division by the length of the
        stream is not: a direction has no stream around it, so logits are right up to one positive factor.
        """
        with torch.inference_mode():
            x_ND = x_ND.to(self.device, torch.float32)
            if isinstance(self.parts.final_norm, nn.LayerNorm):
                x_ND = x_ND - x_ND.mean(-1, keepdim=True)
            x_ND = x_ND * norm_gain(self.parts.final_norm, self.d_model).to(self.device)
            W_VD: Tensor = self.parts.unembedding.weight  # type: ignore[assignment]
            if W_VD.shape[1] != self.d_model:
                raise InputError(f"the unembedding of {self.name} reads {W_VD.shape[1]} dimensions, not {self.d_model}")
            rows = max(1, HEAD_ELEMENTS // self.d_model)  # the unembedding in float32 piece by piece: it may be huge
            return torch.cat([x_ND @ W_VD[i : i + rows].float().T for i in range(0, len(W_VD), rows)], dim=1)

    def _base(self, ids_BT: Tensor) -> Any:
        return self.model.base_model(input_ids=ids_BT, use_cache=False)

    def _logits(self, h_ND: Tensor) -> Tensor:
        """(N, V) float32 logits of final hidden states, with the scalings that a few architectures add."""
        config = self.model.config.get_text_config()
        logits_NV = self.parts.unembedding(h_ND).float()
        logits_NV = logits_NV * (getattr(config, "logit_scale", None) or 1.0)  # Cohere
        logits_NV = logits_NV / (getattr(config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
        return torch.tanh(logits_NV / cap) * cap if cap else logits_NV

    def _checked(self, ids_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
        if ids_BT.ndim != 2 or 0 in ids_BT.shape:
            raise InputError(f"token ids have shape {tuple(ids_BT.shape)}, (batch, tokens) was expected")
        if ids_BT.shape[1] > self.context:
            raise InputError(f"{ids_BT.shape[1]} tokens are more than the {self.context} that {self.name} takes")
        if mask_BT is not None and bool((mask_BT[:, 1:].bool() & ~mask_BT[:, :-1].bool()).any()):
            raise InputError("the mask has padding before a token", do="pad on the right")
        return ids_BT.to(self.device, torch.long)


# ---------------------------------------------------------------- identity
def architecture_fingerprint(model: Any) -> str:
    """Of the model's class and dimensions."""
    config = model.config.get_text_config()
    names = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size head_dim".split()
    vocabulary = tuple(model.get_input_embeddings().weight.shape)
    return fingerprint([config.model_type, *(getattr(config, name, None) for name in names), vocabulary])


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Of the vocabulary and of the ids of a probe text, prefix included."""
    return fingerprint([sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]), tokenizer(PROBE)["input_ids"]])


def _live_fingerprint(model: Any) -> str:
    """Of the names, shapes and means of all parameters: for models that were never on disk."""
    return fingerprint([[n, list(p.shape), f"{p.double().mean().item():.9e}"] for n, p in model.named_parameters()])


def _prefix_ids(tokenizer: Any) -> tuple[int, ...]:
    alone = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = [i for i in range(len(whole)) if whole[i : i + len(alone)] == alone]
    return tuple(whole[: starts[0]]) if starts else ()
