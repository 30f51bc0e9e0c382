"""Reading and rewriting what blocks put out, and stopping the forward pass once nothing more is needed.

Every hook is removed when its `with` block ends, also after an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


class StopForward(Exception):
    """Raised inside a forward pass to end it; caught by whoever started the pass."""


def stream(output: Any) -> Tensor:
    """The residual stream (B, T, D) in a block's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def reading(blocks: nn.ModuleList, layers: Iterable[int], *, stop: bool = True) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of `blocks[layer]` into the yielded dict; with `stop`, end the pass after the last one.

    The StopForward this raises is swallowed here: the `with` body is just the call of the model.
    """
    wanted = sorted(set(layers))
    x: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            x[layer] = stream(output)
            if stop and layer == wanted[-1]:
                raise StopForward

        return hook

    with contextlib.ExitStack() as stack:
        for layer in wanted:
            stack.callback(blocks[layer].register_forward_hook(keep(layer)).remove)
        with contextlib.suppress(StopForward):
            yield x


@contextlib.contextmanager
def editing(blocks: nn.ModuleList, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Replace the output x_BTD of `blocks[layer]` by `edits[layer](x_BTD)`, in the block's own dtype."""

    def rewrite(edit: Edit) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            x_BTD = stream(output)
            edited_BTD = edit(x_BTD).to(x_BTD.dtype)
            return (edited_BTD, *output[1:]) if isinstance(output, tuple) else edited_BTD

        return hook

    with contextlib.ExitStack() as stack:
        for layer, edit in edits.items():
            stack.callback(blocks[layer].register_forward_hook(rewrite(edit)).remove)
        yield
