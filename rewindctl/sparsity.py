"""How much to prune: a sparsity (removed / total) or a compression (total / kept)."""

from rewindctl.errors import UsageError


def target_sparsity(sparsity: float | None, compression: float | None) -> float:
    """The one that is given, as a sparsity. Raises: UsageError when none or both are, or it is out of range."""
    if sparsity is not None and compression is not None:
        raise UsageError(
            f"both --sparsity {sparsity:g} and --compression {compression:g} are given", "give one of the two"
        )
    if compression is not None:
        if not 1 < compression < float("inf"):
            raise UsageError(f"--compression {compression:g} is not above 1", "give total / kept weights, such as 9.35")
        return 1 - 1 / compression
    if sparsity is None:
        raise UsageError("neither --sparsity nor --compression is given", "give one, such as --compression 9.35")
    if not 0 < sparsity < 1:
        raise UsageError(f"--sparsity {sparsity:g} is outside (0, 1)", "give removed / total weights, such as 0.893")
    return sparsity
