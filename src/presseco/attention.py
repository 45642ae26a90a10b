"""Attention to train in bf16 on a CPU, row by row over each text's own tokens.

torch's `scaled_dot_product_attention` is one fused kernel; on a CPU in bf16 its backward pass takes three
times the time of these few matrix products, which also skip the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return each token's mix of the values of its text's tokens, shape (rows, heads, tokens, size).

    `mask` has shape (rows, 1, 1, tokens); true: a token. Tokens stand before padding; what padding gets
    is not defined. What is trained in bf16 on a CPU goes row by row; all else is torch's own kernel.
    """
    here = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if here and query.shape == key.shape and torch.is_grad_enabled() and query.requires_grad:
        lengths = mask.sum(-1).flatten().tolist()
        mixed: Tensor = _RowByRow.apply(query, key, value, lengths)  # type: ignore[no-untyped-call]
        return mixed
    return scaled_dot_product_attention(query, key, value, mask)


class _RowByRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
        query = query * query.shape[-1] ** -0.5
        out = torch.zeros_like(query)
        shares = []
        for row, n in enumerate(lengths):
            share = torch.bmm(query[row, :, :n], key[row, :, :n].transpose(1, 2))
            torch.softmax(share, -1, out=share)
            out[row, :, :n] = torch.bmm(share, value[row, :, :n])
            shares.append(share)
        ctx.lengths = lengths
        ctx.save_for_backward(query, key, value, *shares)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *shares = ctx.saved_tensors
        of_query, of_key, of_value = map(torch.zeros_like, (query, key, value))
        for row, (n, share) in enumerate(zip(ctx.lengths, shares, strict=True)):
            grad = grads[0][row, :, :n]
            of_value[row, :, :n] = torch.bmm(share.transpose(1, 2), grad)
            of_share = torch.bmm(grad, value[row, :, :n].transpose(1, 2))
            of_score = torch.ops.aten._softmax_backward_data(of_share, share, -1, share.dtype)
            of_query[row, :, :n] = torch.bmm(of_score, key[row, :, :n])
            of_key[row, :, :n] = torch.bmm(of_score.transpose(1, 2), query[row, :, :n])
        return of_query.mul_(query.shape[-1] ** -0.5), of_key, of_value, None
