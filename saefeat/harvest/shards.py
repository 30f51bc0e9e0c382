"""One HDF5 shard: a group per hook point, contexts on the first axis, bfloat16 as uint16 with an attribute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch

from saefeat.errors import FormatError
from saefeat.files import atomic_path

FORMAT_VERSION = 1


def to_stored(x: torch.Tensor) -> np.ndarray:
    """A tensor as numpy; bfloat16, which numpy lacks, as its uint16 bits."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def from_stored(x: np.ndarray, dtype: str) -> torch.Tensor:
    """The inverse of `to_stored`."""
    tensor = torch.from_numpy(x)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def write_shard(
    path: Path,
    ids_NT: np.ndarray,
    starts: list[tuple[int, ...]],
    layers: Mapping[int, tuple[np.ndarray, np.ndarray]],
    dtype: str,
) -> None:
    """Write contexts atomically: token ids, document starts, and `(x_NTD, usable_NT)` for each layer."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "activations", FORMAT_VERSION
        file.create_dataset("ids", data=ids_NT, fletcher32=True)
        flat = np.array([(n, s) for n, row in enumerate(starts) for s in row], dtype=np.int32).reshape(-1, 2)
        file.create_dataset("starts", data=flat, fletcher32=True, chunks=(max(1, len(flat)), 2))
        for layer, (x_NTD, usable_NT) in layers.items():
            group = file.create_group(f"layer_{layer}")
            group.attrs["dtype"] = dtype
            group.create_dataset("x", data=x_NTD, chunks=(1, *x_NTD.shape[1:]), fletcher32=True)
            group.create_dataset("usable", data=usable_NT, fletcher32=True)


def read_rows(path: Path, layer: int, rows: np.ndarray) -> torch.Tensor:
    """x_NTD of some contexts (rising row numbers) of a shard, in the dtype they were harvested in."""
    try:
        with h5py.File(path, "r") as file:
            x = file[f"layer_{layer}/x"]
            dtype = str(file[f"layer_{layer}"].attrs["dtype"])
            out = np.empty((len(rows), *x.shape[1:]), dtype=x.dtype)
            for i, row in enumerate(rows):
                out[i] = x[row]
    except (OSError, KeyError, ValueError) as error:
        raise FormatError(f"is damaged ({error})", where=path, do="remove its folder and harvest again") from error
    return from_stored(out, dtype)


def read_marks(path: Path, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """`ids_NT` and `usable_NT` of a shard."""
    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("format_version", 0)
            if version > FORMAT_VERSION:
                raise FormatError(f"is of format {version}", where=path, do="upgrade saefeat")
            return file["ids"][:], file[f"layer_{layer}/usable"][:]
    except (OSError, KeyError, ValueError) as error:
        raise FormatError(f"is damaged ({error})", where=path, do="remove its folder and harvest again") from error
