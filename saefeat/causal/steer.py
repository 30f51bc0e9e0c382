"""Interventions on a running model: a context manager that edits residual streams and leaves nothing behind.

Which tokens a pass holds is counted by what lies in the KV cache, never by the length of the pass: a pass of one token
after a prompt of nine is column 9. Padding, the first real token of each row and sinks are never edited.

The hooks belong to the module, which every thread shares; whether they act is a context variable, which no two
threads share. A thread started inside the `with` block is therefore not steered unless it runs in a copy of this
context (`contextvars.copy_context().run`).
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saefeat.causal.interventions import Intervention, edited
from saefeat.errors import InputError
from saefeat.subject import Edit, Subject, Turn, editing

OnEdit = Callable[[int, int, Tensor], None]
"""Told after every edit: the layer, the pass's first column, where_BT (True where the stream was edited)."""

_active: ContextVar[tuple[Steering, ...]] = ContextVar("saefeat_steering", default=())


@contextlib.contextmanager
def steering(
    subject: Subject,
    interventions: Sequence[Intervention],
    *,
    mask_BT: Tensor | None = None,
    turns: Sequence[Sequence[Turn]] | None = None,
    on_edit: OnEdit | None = None,
) -> Iterator[None]:
    """Every forward pass of this thread inside the `with` block is intervened on, in the order given.

    mask_BT: True at the prompt's real tokens; it says where the prompt ends, so it is needed for positions other than
    'all' in passes without a KV cache, and is repeated if a pass has k rows for each of its own. Without it what the
    first cached pass holds is the prompt, and padding is what the model's own attention mask says. turns: those of
    each row's chat (`render_chat`), for interventions that name turns. Blocks nest. Raises InputError: no such layer,
    an SAE of another layer, turns that are not given; and, from within a pass, tokens that cannot be told apart.
    """
    for intervention in interventions:
        _check(subject, intervention, turns)
    state = Steering([i.to(subject.device) for i in interventions], mask_BT, turns, on_edit)
    layers = sorted({intervention.layer for intervention in interventions})
    with contextlib.ExitStack() as stack:
        # the module that runs the blocks, whoever calls it
        base: nn.Module = subject.model.get_submodule(subject.parts.path.rpartition(".")[0])
        stack.callback(base.register_forward_pre_hook(state.begin, with_kwargs=True).remove)
        stack.enter_context(editing(subject.blocks, {layer: state.edit(layer) for layer in layers}))
        _active.set((*_active.get(), state))
        try:
            yield
        finally:  # not reset(token): a generator may be closed in another context than it was started in
            _active.set(tuple(one for one in _active.get() if one is not state))


def _check(subject: Subject, intervention: Intervention, turns: object) -> None:
    direction = intervention.direction
    subject.check_layer(direction.layer)
    if direction.unit_D.shape != (subject.d_model,):
        what = f"{direction.name} has shape {tuple(direction.unit_D.shape)}"
        raise InputError(what, do=f"use a direction of {subject.name}, which is {subject.d_model} wide")
    if direction.sae is not None and direction.sae.layer != direction.layer and intervention.action != "add":
        what = f"{direction.name} is read at layer {direction.sae.layer}, not at layer {direction.layer}"
        raise InputError(what, do="ablate, clamp and cap features at their own layer")
    if intervention.turns is not None and turns is None:
        raise InputError("an intervention names turns, but this is no conversation", do="pass the chat's turns")


@dataclass
class Pass:
    """The forward pass under way: columns [past, …) of a text whose prompt holds the first `prompt` columns.

    prompt None: cannot be told. real_BC: True at real tokens, over all columns so far; None: all are real.
    """

    past: int
    prompt: int | None
    real_BC: Tensor | None


class Steering:
    """The state of one `with` block: what it does, and per thread the pass under way."""

    def __init__(
        self,
        interventions: Sequence[Intervention],
        mask_BT: Tensor | None,
        turns: Sequence[Sequence[Turn]] | None,
        on_edit: OnEdit | None,
    ) -> None:
        self.interventions, self.turns, self.on_edit = interventions, turns, on_edit
        self.mask_BP = None if mask_BT is None else mask_BT.bool()
        self.here = threading.local()

    # ------------------------------------------------------------ hooks
    def begin(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """Before a pass of the whole stack: where it starts, and which of its columns are real."""
        if kwargs is None or self not in _active.get():  # None: removed by its owner while another thread ran
            return
        told = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        cache, mask, ids = (told.get(name) for name in ("past_key_values", "attention_mask", "input_ids"))
        past = 0 if cache is None else int(cache.get_seq_length())
        if self.mask_BP is not None:
            self.here.now = Pass(past, self.mask_BP.shape[1], self.mask_BP)
            return
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise InputError("this pass comes with a mask that does not show its padding", do="pass mask_BT")
        prompt = None
        if cache is not None:
            prompts = self.here.__dict__.setdefault("prompts", WeakKeyDictionary())
            if past == 0 or cache not in prompts:  # what was cached before this block is prompt
                prompts[cache] = past or (told["inputs_embeds"] if ids is None else ids).shape[1]
            prompt = prompts[cache]
        self.here.now = Pass(past, prompt, None if mask is None else mask.bool())

    def edit(self, layer: int) -> Edit:
        """The edit of one block's output."""
        own = [intervention for intervention in self.interventions if intervention.layer == layer]
        sink_norm = min(intervention.direction.sink_norm for intervention in own)

        def edit(x_BTD: Tensor) -> Tensor:
            if self not in _active.get():
                return x_BTD
            now: Pass = self.here.now
            # rounded to the model's dtype once, after all edits; positions that are not edited come back as they were
            out_BTD = x_BTD.to(torch.promote_types(x_BTD.dtype, torch.float32), copy=True)
            usable_BT = self._usable(now, x_BTD) & (out_BTD.norm(dim=-1) <= sink_norm)
            touched_BT = torch.zeros_like(usable_BT)
            for intervention in own:
                where_BT = usable_BT & self._wanted(intervention, now, x_BTD)
                out_BTD[where_BT] = edited(out_BTD[where_BT], intervention)
                touched_BT |= where_BT
            if self.on_edit is not None:
                self.on_edit(layer, now.past, touched_BT)
            return out_BTD

        return edit

    # ------------------------------------------------------------ which positions
    def _usable(self, now: Pass, x_BTD: Tensor) -> Tensor:
        """(B, T): real tokens after each row's first."""
        column_T, first_B1, real_BT = self._columns(now, x_BTD)
        return real_BT & (column_T > first_B1)

    def _columns(self, now: Pass, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pass's columns (T,), each row's first real column (B, 1), and which positions are real (B, T)."""
        B, T, device = x_BTD.shape[0], x_BTD.shape[1], x_BTD.device
        column_T = torch.arange(now.past, now.past + T, device=device)
        if now.real_BC is None:
            return column_T, torch.zeros(B, 1, dtype=torch.long, device=device), column_T.expand(B, T) >= 0
        real_BC = _repeated(now.real_BC.to(device), B)
        first_B1 = real_BC.int().argmax(1, keepdim=True)
        known_BT = real_BC[:, now.past : now.past + T]
        after_BT = known_BT.new_ones(B, T - known_BT.shape[1])  # beyond the prompt's mask all is generated
        return column_T, first_B1, torch.cat([known_BT, after_BT], 1)

    def _wanted(self, intervention: Intervention, now: Pass, x_BTD: Tensor) -> Tensor:
        """(B, T): the positions and turns that an intervention names."""
        column_T, first_B1, _ = self._columns(now, x_BTD)
        wanted_BT = column_T.expand(*x_BTD.shape[:2]) >= 0
        if intervention.positions == "all" and intervention.turns is None:
            return wanted_BT
        if now.prompt is None:
            what = "prompt and generated tokens cannot be told apart in a pass without a KV cache"
            raise InputError(what, do="pass mask_BT, the mask of the prompt")
        if intervention.positions != "all":
            wanted_BT = wanted_BT & ((column_T < now.prompt) == (intervention.positions == "prompt"))
        if intervention.turns is None:
            return wanted_BT
        assert self.turns is not None
        rows = [_turn_spans(turns, intervention.turns) for turns in self.turns]
        B = x_BTD.shape[0]
        if B % len(rows):
            raise InputError(f"{len(rows)} conversations for {B} rows", do="pass the turns of every row")
        spans = [spans for spans in rows for _ in range(B // len(rows))]
        member_BT = torch.zeros_like(wanted_BT)
        for row, (start_stops, first) in enumerate(zip(spans, first_B1[:, 0].tolist(), strict=True)):
            for start, stop in start_stops:
                end = column_T.new_tensor(2**62) if stop is None else first + stop
                member_BT[row] |= (column_T >= first + start) & (column_T < end)
        return wanted_BT & member_BT


def _turn_spans(turns: Sequence[Turn], wanted: Sequence[str | int]) -> list[tuple[int, int | None]]:
    """[start, stop) of the wanted turns, counted from a row's first real token; stop None: to the end.

    The reply under way starts with the markup that opens it, where the model is about to speak.
    """
    numbers = {w % len(turns) if -len(turns) <= w < 0 else w for w in wanted if isinstance(w, int)} if turns else set()
    spans: list[tuple[int, int | None]] = [
        (turn.content_start, turn.content_stop)
        for number, turn in enumerate(turns)
        if number in numbers or turn.role in wanted
    ]
    if len(turns) in numbers or "assistant" in wanted:
        spans.append((turns[-1].stop if turns else 0, None))
    return spans


def _repeated(mask_bC: Tensor, B: int) -> Tensor:
    """The mask with each of its rows repeated, for passes with several rows a prompt (samples, beams)."""
    b = mask_bC.shape[0]
    if B % b:
        raise InputError(f"a mask of {b} rows for a pass of {B}", do="pass a mask with a row for each prompt")
    return mask_bC if b == B else mask_bC.repeat_interleave(B // b, dim=0)
