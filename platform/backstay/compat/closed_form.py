"""Maps in closed form, fitted to the second moments of two versions alone.

x is a row of the newer version, (D_s,), and y the same entity's row of the older one, (D_t,); a map
turns x into an estimate of y. See `Moments`.
"""

from collections.abc import Sequence

import numpy as np

from backstay.compat.maps import AffineMap, EntityMaps
from backstay.compat.methods import ClosedForm
from backstay.compat.moments import Float32, Float64, Moments, check_any, moments_of
from backstay.errors import UsageError

_EPS = float(np.finfo(np.float64).eps)
_EPS_32 = float(np.finfo(np.float32).eps)


def ridge(moments: Moments, *, penalty: float = 1e-4, intercept: bool = True) -> AffineMap:
    """The linear map that minimises the mean squared error plus a little of its own size.

    Minimises mean ‖y − Bx − c‖² + penalty·s·‖B‖², where s is the mean eigenvalue of the second
    moment of x: the penalty has no unit, and the map of rescaled vectors is the rescaled map (Hoerl
    & Kennard 1970). Directions that no row of x takes are left at zero, so that constant columns
    or fewer rows than dimensions give a finite map: the least one, at penalty 0. With `intercept`
    c is fitted too, unpenalised; otherwise the offset is zero.
    """
    check_any(moments)
    if not 0 <= penalty < float("inf"):
        raise UsageError(f"expected a penalty of at least 0, found {penalty}.")
    mean_x, mean_y = moments.x / moments.rows, moments.y / moments.rows
    xx, xy = moments.xx / moments.rows, moments.xy / moments.rows
    # Variances below this are rounding errors of the sums.
    floor = _EPS * len(xx) * float(np.trace(xx))
    if intercept:
        xx = xx - np.outer(mean_x, mean_x)
        xy = xy - np.outer(mean_x, mean_y)
    variances, axes = np.linalg.eigh(xx)
    there = variances > floor
    variances, axes = variances[there], axes[:, there]
    shrunk = variances + penalty * variances.sum() / len(xx)
    matrix = (((axes.T @ xy) / shrunk[:, None]).T @ axes.T).astype(np.float32)
    offset = mean_y - matrix.astype(np.float64) @ mean_x if intercept else np.zeros(len(mean_y))
    return AffineMap(matrix, offset.astype(np.float32))


def procrustes(moments: Moments) -> AffineMap:
    """The rotation (or reflection) that brings x nearest to y, from XᵀY alone.

    With YᵀX = U S Vᵀ the map is U Vᵀ: the orthogonal matrix that minimises ‖Y − X Rᵀ‖ (Schönemann
    1966). Where D_s > D_t its rows are orthonormal: it is the part that reaches y of the rotation
    that minimises the distance to y filled up with zeros. Where D_s < D_t its columns are.
    Stretches no vector.
    """
    check_any(moments)
    return AffineMap.linear(_rotation(moments.xy).astype(np.float32))


def similarity(moments: Moments) -> AffineMap:
    """`procrustes` of the vectors around their means, with one scale and an offset (Umeyama 1991).

    It has about as few degrees of freedom as the rotation, so it needs fewer rows than `ridge`.
    Unlike the rotation, it fits versions with another mean or scale.
    """
    check_any(moments)
    mean_x, mean_y = moments.x / moments.rows, moments.y / moments.rows
    cross = moments.xy / moments.rows - np.outer(mean_x, mean_y)
    rotation = _rotation(cross)
    spread = np.sum(rotation @ (moments.xx / moments.rows) * rotation)
    around = spread - np.sum((rotation @ mean_x) ** 2)
    varies = around > _EPS * len(mean_x) * spread  # what rounding leaves is no spread
    scale = np.sum(rotation.T * cross) / around if varies else 0.0
    matrix = (scale * rotation).astype(np.float32)
    offset = mean_y - matrix.astype(np.float64) @ mean_x
    return AffineMap(matrix, offset.astype(np.float32))


def orthogonal_low_rank(users: Moments, items: Moments) -> EntityMaps:
    """Maps back that keep every score of the newer model (Zielnicki & Hsiao, arXiv 2508.07574).

    Scores UVᵀ do not depend on the basis: (UA, VA⁻ᵀ) gives the same scores. With the singular value
    decomposition UVᵀ = P S Qᵀ each version has standardised vectors P S^½ = U T_u and
    Q S^½ = V T_v, which are unique but for a rotation among equal singular values and the signs.
    The rotation R that brings the newer standardised users and items nearest to the older ones
    joins both versions. So the way back is T_u of the newer, Rᵀ, and T_u⁻¹ of the older version,
    and the like for items.

    The transforms come out of the Gram matrices: with UᵀU = FᵀF, VᵀV = GᵀG and F Gᵀ = A S Bᵀ they
    are T_u = Gᵀ B S^-½ and T_v = Fᵀ A S^-½; T_u T_vᵀ = I, so each one's inverse is the other's
    transpose. Where the newer version has more dimensions than the older one, its least singular
    values are dropped: the scores that come out are the best of that rank.
    """
    check_any(users)
    check_any(items)
    if users.shape != items.shape:
        raise UsageError(
            "expected users and items of the same two spaces, found dimensions (newer, older) "
            f"{users.shape} and {items.shape}."
        )
    old_user, old_item = _standardisers(users.yy, items.yy, rank=users.shape[1])
    new_user, new_item = _standardisers(users.xx, items.xx, rank=old_user.shape[1])
    cross = new_user.T @ users.xy @ old_user + new_item.T @ items.xy @ old_item
    rotation = _rotation(cross)
    return EntityMaps(
        user=AffineMap.linear((old_item @ rotation @ new_user.T).astype(np.float32)),
        item=AffineMap.linear((old_user @ rotation @ new_item.T).astype(np.float32)),
    )


def agree(directs: Sequence[Float32], older_maps: Sequence[Float32]) -> Float32:
    """B_k (D_{k-1}, D_k) whose chains into all older versions come nearest to the direct maps.

    A chain of maps that are each the best of their step accumulates errors: the best direct map
    from k to j does better. With C_j = B_{j+1} … B_{k-1} (C_{k-1} is the identity) and the
    least-squares map A_j from z_k to z_j, Σ_j E‖C_j B z_k − z_j‖² is least where Σ_j C_jᵀC_j B =
    Σ_j C_jᵀA_j. This is the multi-step loss of arXiv 2206.03040, but towards the older versions'
    own vectors, solved.

    Args:
        directs: A_{k-1}, A_{k-2}, …: (D_j, D_k) each, newest target first, at least one.
        older_maps: B_{k-1}, B_{k-2}, … as (D_{j-1}, D_j), newest first, one fewer than `directs`.
    """
    if len(directs) != len(older_maps) + 1:
        raise UsageError(
            f"expected one older map fewer than {len(directs)} direct ones, found "
            f"{len(older_maps)}."
        )
    chain = np.eye(len(directs[0]))
    left, right = np.zeros_like(chain), np.zeros(directs[0].shape)
    for number, direct in enumerate(directs):
        if number:
            chain = older_maps[number - 1].astype(np.float64) @ chain
        left += chain.T @ chain
        right += chain.T @ direct
    return np.linalg.solve(left, right).astype(np.float32)


def fit_maps(form: ClosedForm, new: Float32, old: Float32, *, n_users: int) -> EntityMaps:
    """The maps of users and items, fitted to all rows at once.

    `new` (n, D_s) and `old` (n, D_t) are the vectors of the same entities: users, then items.
    """
    users, items = (moments_of(new[part], old[part]) for part in (np.s_[:n_users], np.s_[n_users:]))
    if form == "low-rank":
        return orthogonal_low_rank(users, items)
    moments = users + items
    if form == "procrustes":
        both = procrustes(moments)
    else:
        both = ridge(moments, intercept=form == "ridge")
    return EntityMaps(user=both, item=both)


def _rotation(cross: Float64) -> Float64:
    """R (D_t, D_s) with orthonormal rows or columns that maximises tr(R · cross), (D_s, D_t)."""
    left, _, right = np.linalg.svd(cross.T, full_matrices=False)
    return np.asarray(left @ right, np.float64)


def _standardisers(users: Float64, items: Float64, *, rank: int) -> tuple[Float64, Float64]:
    """T_u and T_v, (D, r) each with r ≤ rank, from the Gram matrices UᵀU and VᵀV."""
    user_root, item_root = _root(users), _root(items)
    left, values, right = np.linalg.svd(user_root @ item_root.T)
    above = values[:rank] > _EPS_32 * values[0]  # below that lies the rounding of float32 vectors
    scale = np.sqrt(values[:rank][above])
    t_users = item_root.T @ right.T[:, :rank][:, above] / scale
    t_items = user_root.T @ left[:, :rank][:, above] / scale
    return t_users, t_items


def _root(gram: Float64) -> Float64:
    """F with FᵀF = gram; directions whose length is mere rounding are set to zero."""
    values, axes = np.linalg.eigh(gram)
    values = np.where(values > _EPS * len(gram) * values[-1], values, 0)
    return np.asarray(np.sqrt(values)[:, None] * axes.T, np.float64)
