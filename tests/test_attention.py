"""Row-by-row attention for training: what torch's own kernel gives, forward and backward."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from presseco.attention import attend

LENGTHS = [7, 4, 1]
MASK = torch.arange(7)[None, None, None] < torch.tensor(LENGTHS)[:, None, None, None]


def inputs(dtype):
    drawn = torch.Generator().manual_seed(1)
    # A token's heads side by side, as a layer's projections leave them.
    return [
        torch.randn(3, 7, 2, 8, generator=drawn).to(dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]


def mixed_and_gradients(attention, dtype):
    """Return the tokens' mixes and the three gradients of a loss on tokens alone, without padding."""
    given = inputs(dtype)
    mixed = attention(*given, MASK)
    here = MASK.transpose(-1, -2)
    loss = (mixed.float() * torch.linspace(-1, 1, 8)).sin().masked_fill(~here, 0).sum()
    gradients = torch.autograd.grad(loss, given)
    return [x.detach().float().masked_fill(~here, 0) for x in (mixed, *gradients)]


def test_bf16_rows_are_the_exact_attention_as_nearly_as_torchs_kernel():
    exact = mixed_and_gradients(scaled_dot_product_attention, torch.float64)
    own = mixed_and_gradients(attend, torch.bfloat16)
    torchs = mixed_and_gradients(scaled_dot_product_attention, torch.bfloat16)
    for mine, other, truth in zip(own, torchs, exact, strict=True):
        assert truth.abs().max() > 0.1
        error = (mine - truth).norm() / truth.norm()
        assert error < 0.03
        assert error < 3 * (other - truth).norm() / truth.norm()


def test_the_rows_are_taken_where_something_is_trained_in_bf16():
    trained = inputs(torch.bfloat16)
    assert "RowByRow" in type(attend(*trained, MASK).grad_fn).__name__
    assert "RowByRow" not in type(attend(*inputs(torch.float32), MASK).grad_fn).__name__
    with torch.no_grad():
        assert torch.equal(attend(*trained, MASK), scaled_dot_product_attention(*trained, MASK))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_padding_changes_no_token(dtype):
    query, key, value = inputs(dtype)
    alone = attend(query[1:2, :, :4], key[1:2, :, :4], value[1:2, :, :4], MASK[1:2, ..., :4])
    padded = attend(query, key, value, MASK)[1:2, :, :4]
    torch.testing.assert_close(padded, alone)
