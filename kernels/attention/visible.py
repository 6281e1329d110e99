"""Which key j a query at i sees, by the kind of pattern.

The expressions hold for numbers, for tensors and in Triton, whose kernels compile these functions.
"""

# Triton takes no annotations but its own.
# mypy: allow-untyped-defs


def band_visible(i, j, before, after, stride):
    """Whether key j is at most `before` back or `after` ahead of i, in whole strides."""
    near = (i - j <= before) & (j - i <= after)
    return near if stride == 1 else near & ((i - j) % stride == 0)


def chunk_visible(i, j, size, after):
    """Whether key j is in the chunk of i, and at most `after` ahead."""
    # The rounding of negative positions differs between languages.
    return (i >= 0) & (i // size == j // size) & (j - i <= after)


def fixed_visible(i, j, stride, summary):
    """Whether key j <= i is in the block of i, or among the last `summary` of a block."""
    return (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - summary))


def prefix_visible(i, j, length):
    """Whether key j is not after i, or in the prefix."""
    return (j <= i) | (j < length)


def landmark_visible(i, j, block):
    """Whether key j <= i has a part in the softmax of i: all but the landmark of i's own block."""
    return (j <= i) & ((i // block != j // block) | (j % block != block - 1))
