"""What a text holds of a feature: how far the SAE's reconstruction of it points along the feature's direction.

    reading_f = x̂ · d_f = Σ_g a_g (d_g · d_f)        a: mean activations, d: decoder directions of unit length

A feature's own activation is the term g = f. It is often zero where the direction is present all the same: features
split (several share a direction and only the best-matching one fires), and what lies under the threshold is cut. So
single activations are ranked poorly, no better than random directions; readings along decoder directions tell
emotions better than either (docs/method.md).
"""

from __future__ import annotations

import numpy as np


def aligned(X_NF: np.ndarray, W_dec_FD: np.ndarray) -> np.ndarray:
    """(N, F) float32 readings of mean activations X_NF along every feature's decoder direction.

    Features that fire in no row read 0 everywhere: there is nothing to say about them. N·F·D products.
    """
    norm_F = np.linalg.norm(W_dec_FD, axis=1)
    W_FD = (W_dec_FD / np.maximum(norm_F, 1e-12)[:, None]).astype(np.float32)
    reading_NF = (X_NF.astype(np.float32) * norm_F.astype(np.float32)) @ W_FD @ W_FD.T
    reading_NF[:, ~X_NF.any(axis=0)] = 0
    return reading_NF
