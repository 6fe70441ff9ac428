"""Judges the features of a beat with boosted trees.

Responsible for the file of the trees and of the network (``beat_net``) and for walking the trees;
``models/beats/train.py`` makes both and writes the file. Not responsible for what the features are (``beats``).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.beat_net import BeatNet, fits, silent
from edgeward.clinic.monitor.state import HELD, LATER

FILE = Path(__file__).with_name("beat_model.npz")
#: The ensembles of the file, in order. Scores are log odds.
VENTRICULAR_NOW, VENTRICULAR_LATER, SUPRAVENTRICULAR_LATER = range(3)


class BeatModel(NamedTuple):
    """Trees as arrays. Inner nodes of all trees are numbered through, and so are the leaves.

    Attributes
    ----------
    feature : ndarray, shape (nodes,), int32
    threshold : ndarray, shape (nodes,), float64
        A value up to it goes left.
    child : ndarray, shape (nodes, 2), int32
        Left and right: a node, or ``-1 - leaf``.
    leaf : ndarray, shape (leaves,), float64
    root : ndarray, shape (trees,), int32
    first : ndarray, shape (ensembles + 1,), int32
        Where the trees of each ensemble begin.
    net : BeatNet
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    child: NDArray[np.int32]
    leaf: NDArray[np.float64]
    root: NDArray[np.int32]
    first: NDArray[np.int32]
    net: BeatNet


def load(path: Path = FILE) -> BeatModel:
    """Read trees from a file.

    Raises
    ------
    ValueError
        If the arrays do not fit together: a walk could leave them or never end.
    """
    with np.load(path, allow_pickle=False) as file:
        model = BeatModel(
            file["feature"].astype(np.int32),
            file["threshold"].astype(np.float64),
            file["child"].astype(np.int32),
            file["leaf"].astype(np.float64),
            file["root"].astype(np.int32),
            file["first"].astype(np.int32),
            BeatNet(*(np.ascontiguousarray(file[name], dtype=np.float64) for name in BeatNet._fields)),
        )
    nodes, leaves = len(model.feature), len(model.leaf)
    children = model.child
    ahead = children > np.arange(nodes, dtype=np.int32)[:, None]  # every node comes before its children: walks end
    sound = (
        children.shape == (nodes, 2)
        and model.threshold.shape == (nodes,)
        and bool(np.all((children < 0) | (ahead & (children < nodes))))
        and bool(np.all(-1 - children[children < 0] < leaves))
        and bool(np.all((model.root >= 0) & (model.root < nodes)))
        and bool(np.all((model.feature >= 0) & (model.feature < HELD + LATER)))
        and model.first[0] == 0
        and model.first[-1] == len(model.root)
        and bool(np.all(np.diff(model.first) >= 0))
        and bool(np.all(np.isfinite(model.threshold)))
        and bool(np.all(np.isfinite(model.leaf)))
    )
    if not (sound and fits(model.net)):
        raise ValueError(f"{path.name}: the arrays of the beat model do not fit together")
    return model


@cache
def shipped() -> BeatModel:
    """Return the model that comes with the package."""
    return load()


def blank() -> BeatModel:
    """Return a model without a tree or network: every score is 0. For gathering features before there is a model."""
    none, one = np.zeros(0, dtype=np.int32), np.zeros(0)
    return BeatModel(none, one, np.zeros((0, 2), dtype=np.int32), one, none, np.zeros(4, dtype=np.int32), silent())


@njit
def step(model: Any, x: NDArray[np.float64], node: int) -> int:
    """Return the node that follows; a leaf stays where it is. Nothing that a processor has to guess."""
    at = max(node, 0)
    side = 0 if x[model.feature[at]] <= model.threshold[at] else 1
    following = model.child[at, side]
    return following if node >= 0 else node


@njit
def score(model: Any, which: int, x: NDArray[np.float64]) -> float:
    """Return the log odds that ensemble `which` gives to the features `x`.

    Four trees at a time: each step waits for the one before in its tree, and for no other. Their leaves are added up in
    the trees' order.
    """
    total, tree, end = 0.0, model.first[which], model.first[which + 1]
    while tree + 4 <= end:
        a, b, c, d = model.root[tree], model.root[tree + 1], model.root[tree + 2], model.root[tree + 3]
        while a & b & c & d >= 0:  # while one of them is no leaf
            a, b, c, d = step(model, x, a), step(model, x, b), step(model, x, c), step(model, x, d)
        total += model.leaf[-1 - a]
        total += model.leaf[-1 - b]
        total += model.leaf[-1 - c]
        total += model.leaf[-1 - d]
        tree += 4
    while tree < end:
        node = model.root[tree]
        while node >= 0:
            node = step(model, x, node)
        total += model.leaf[-1 - node]
        tree += 1
    return total
