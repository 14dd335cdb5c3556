"""The kernel of `triton_engine`: tiles of logits that never leave the chip, each reduced to one number per row.

A program holds R rows of `left` and walks over its share of `right`, one tile of K rows after the other, each tile in
steps of W of the width. Product, loss and reduction of a tile happen in registers, and only one number per row is
written. The steps of all tiles are one loop, so that the copies of the next tile run ahead while a tile is reduced;
`step` and `tile` are advanced before the loads and by nothing that is loaded, or the compiler could not start a copy
early (seen in what it makes of the loop).

Exponentials and logarithms are to base 2, as the hardware has them: scale and bias come multiplied by log2 e. A tile is
reduced in float32, tiles are joined in float64.

Letters: R rows of left, K rows of right, W of the width in one step; q = (a product of factors 1 + e^-|L|) - 1.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "num_columns", "width", "tiles_per_program", "num_splits"])
def reduce_pairs(  # noqa: PLR0917 - Triton knows no keyword-only parameters
    left,
    right,
    own,
    partial,
    num_rows,
    num_columns,
    width,
    scale,
    bias,
    tiles_per_program,
    num_splits,
    how: tl.constexpr,
    has_own: tl.constexpr,
    is_interpreted: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    W: tl.constexpr,
):
    """Write partial[split, row], the reduction of a row over the tiles of each split, for one block of rows.

    `left` and `right` are tensor descriptors, so that rows and columns past the end read as 0. Programs of one block of
    rows have consecutive numbers: they run at the same time, and the rows are read from device memory once.
    """
    program = tl.program_id(0)
    first_row = program // num_splits * R
    split = program % num_splits
    num_tiles = tl.minimum(tl.cdiv(num_columns, K) - split * tiles_per_program, tiles_per_program)
    num_steps = tl.cdiv(width, W)
    row_R = first_row + tl.arange(0, R)

    total_R = tl.zeros([R], tl.float64)
    top_R = tl.full([R], float("-inf"), tl.float32)
    product_RK = tl.zeros([R, K], tl.float32)
    tile = split * tiles_per_program - 1
    step = num_steps - 1
    for _ in range(0, num_steps * num_tiles):
        is_new_tile = step == num_steps - 1
        step = tl.where(is_new_tile, 0, step + 1)
        tile = tl.where(is_new_tile, tile + 1, tile)
        left_RW = left.load([first_row, step * W])
        right_KW = right.load([tile * K, step * W])
        if is_interpreted:  # Triton's interpreter would multiply the bits of bfloat16 numbers as integers
            left_RW = left_RW.to(tl.float32)
            right_KW = right_KW.to(tl.float32)
        product_RK = tl.dot(left_RW, right_KW.T, product_RK, input_precision="ieee")
        if step == num_steps - 1:
            column_K = tile * K + tl.arange(0, K)
            is_here_K = column_K < num_columns
            logits_RK = product_RK * scale + tl.where(is_here_K, bias, float("-inf"))[None, :]
            if has_own:
                own_K = tl.load(own + column_K, mask=is_here_K, other=-1)
                logits_RK = tl.where(own_K[None, :] == row_R[:, None], float("-inf"), logits_RK)
            if how == "softplus_sum":
                total_R += _softplus_sum(logits_RK, R, K).to(tl.float64)
            else:
                higher_R = tl.maximum(top_R, tl.max(logits_RK, 1))
                if how == "log_sum_exp":
                    base_R = tl.where(higher_R == float("-inf"), 0.0, higher_R)
                    sum_R = tl.sum(tl.exp2(logits_RK - base_R[:, None]), 1).to(tl.float64)
                    total_R = total_R * tl.exp2(top_R - base_R).to(tl.float64) + sum_R
                top_R = higher_R
            product_RK = tl.zeros([R, K], tl.float32)

    if how == "maximum":
        total_R = top_R.to(tl.float64)
    if how == "log_sum_exp":  # a sum with a term at the top is 1 or more; it is 0 where no pair was counted
        total_R = top_R.to(tl.float64) + tl.log2(tl.maximum(total_R, 1.0))
    tl.store(partial + split.to(tl.int64) * num_rows + row_R, total_R, mask=row_R < num_rows)


@triton.jit
def _softplus_sum(logits_RK, R: tl.constexpr, K: tl.constexpr):
    """Return the sum of log2(1 + 2^L) over K, as max(L, 0) and groups of K / 4 that share one logarithm.

    A factor 1 + 2^-|L| is at most 2 and a group at most 64, so no product exceeds 2^64. A group is what one thread
    holds of a row in the layout of Hopper's products, two neighbours of every eight: nothing is exchanged until it is
    one number. q is kept instead of the product, so that losses far below the rounding of 1 keep their digits. `* -1.0`
    is free, folded into the exponential, where a minus sign would be an operation of its own.
    """
    q_RK = tl.exp2(tl.abs(logits_RK) * -1.0)
    q_R4 = tl.reduce(tl.reduce(tl.reshape(q_RK, [R, K // 8, 4, 2]), 3, _join), 1, _join)
    return tl.sum(tl.maximum(logits_RK, 0.0), 1) + tl.sum(_log2_of_1_plus(q_R4), 1)


@triton.jit
def _join(q_1, q_2):
    return q_1 + q_2 + q_1 * q_2


@triton.jit
def _log2_of_1_plus(q):
    """Return log2(1 + q) for q >= 0, with what the rounding of 1 + q lost added back to first order."""
    sum_ = 1.0 + q
    return tl.log2(sum_) + (q - (sum_ - 1.0)) / sum_ * 1.4426950408889634
