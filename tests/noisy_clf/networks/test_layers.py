from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf.networks import layers
from noisy_clf.networks.layers import (
    AttentionBlock, AttentionPool, Downsample, GroupNorm32, ResBlock, Upsample, pointwise, split_heads, time_embedding)


@pytest.mark.parametrize("width", [6, 7, 32])
def test_time_embedding_is_cosines_then_sines(width: int) -> None:
    half, timesteps = width // 2, [0.0, 0.5, 3.0, 20.25]
    expected = [[function(t * 10000 ** (-i / half)) for function in (math.cos, math.sin) for i in range(half)]
                + [0.0] * (width % 2) for t in timesteps]
    assert_close(time_embedding(torch.tensor(timesteps), width), torch.tensor(expected), rtol=0, atol=5e-6)


def test_time_embedding_takes_whole_timesteps() -> None:
    t = torch.tensor([0, 17, 999])
    assert torch.equal(time_embedding(t, 32), time_embedding(t.float(), 32))


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_split_heads_reads_channels_in_the_files_order(order: str) -> None:
    B, L, heads, width = 2, 3, 4, 5
    qkv = torch.randn(B, L, 3 * heads * width)
    for which, part in enumerate(split_heads(qkv, heads, order)):  # type: ignore[arg-type]
        assert part.shape == (B, heads, L, width)
        for head in range(heads):
            for channel in range(width):
                block = head * 3 + which if order == "legacy" else which * heads + head
                assert torch.equal(part[:, head, :, channel], qkv[:, :, block * width + channel])


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v for one head, [B, d, L] each."""
    weights = (torch.einsum("bdq,bdk->bqk", q, k) / q.shape[1] ** 0.5).softmax(dim=2)
    return torch.einsum("bqk,bdk->bdq", weights, v)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_pool_is_full_attention_of_which_query_0_is_kept(heads: int) -> None:
    pool = AttentionPool(size=4, channels=32, heads=heads, out_channels=7)
    x, d = torch.randn(3, 32, 4, 4), 32 // heads
    pixels = torch.cat([x.mean(dim=(2, 3))[:, :, None], x.reshape(3, 32, 16)], dim=2) + pool.positional_embedding
    q, k, v = pool.qkv_proj(pixels).split(32, dim=1)
    answers = torch.cat([naive_attention(q[:, i:i + d], k[:, i:i + d], v[:, i:i + d]) for i in range(0, 32, d)], dim=1)
    assert_close(pool(x), pool.c_proj(answers)[:, :, 0])


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention_block_adds_projected_full_attention(order: str) -> None:
    block = AttentionBlock(32, heads=2, order=order)  # type: ignore[arg-type]
    x = torch.randn(2, 32, 3, 5)  # not square: width and height must not be mixed up
    assert torch.equal(block(x), x)  # the projection starts at 0
    nn.init.normal_(block.get_parameter("proj_out.weight"))
    qkv = block.qkv(block.norm(x).flatten(2))
    parts = qkv.split(16, dim=1)
    by_head = [parts[0:3], parts[3:6]] if order == "legacy" else [parts[0::2], parts[1::2]]
    h = torch.cat([naive_attention(q, k, v) for q, k, v in by_head], dim=1)
    assert_close(block(x), x + block.proj_out(h).reshape(x.shape))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_bf16_is_rounded_once(layout: torch.memory_format) -> None:
    norm = GroupNorm32(64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (5 + torch.randn(2, 64, 16, 16)).bfloat16().to(memory_format=layout)
    exact = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double())
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            found = norm(x)
        assert found.dtype == torch.bfloat16
        assert ((found.double() - exact).abs() <= exact.abs() * 2 ** -8 + 1e-5).all()  # computed in bf16 it is 30 times as far


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 3, 5), (1, 4, 4), (3, 16), (16,)])
def test_pointwise_is_the_linear_map_of_the_last_axis_however_many_rows(shape: tuple[int, ...]) -> None:
    conv, x = nn.Conv1d(6, 10, 1), torch.randn(*shape, 6).requires_grad_()
    found, expected = pointwise(conv, x), x @ conv.weight[:, :, 0].T + conv.bias
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    asked = (x, conv.weight, conv.bias)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), asked) for y in (found, expected))):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention_is_the_same_in_either_layout_and_keeps_it(order: str) -> None:
    block = AttentionBlock(32, heads=2, order=order)  # type: ignore[arg-type]
    nn.init.normal_(block.proj_out.weight, std=0.1)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=layout).requires_grad_()
        found = block(x)
        assert found.is_contiguous(memory_format=layout)
        results.append((found, *torch.autograd.grad(found.square().sum(), (x, block.qkv.weight))))
    for one, other in zip(*results):
        assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert (results[0][0] - x).abs().max() > 0.1  # it attends


@pytest.mark.parametrize("weights, at_once", [(2 ** 22, 10), (3 * 6 * 6, 3), (6 * 6, 1), (1, 0)])
def test_attention_in_bf16_is_that_of_float32_however_many_heads_at_a_time(
        monkeypatch: pytest.MonkeyPatch, weights: int, at_once: int) -> None:
    fused = 0

    def counted(*qkv: torch.Tensor) -> torch.Tensor:
        nonlocal fused
        fused += 1
        return F.scaled_dot_product_attention(*qkv)

    q, k, v = (torch.randn(5, 2, 6, 8).bfloat16().requires_grad_() for _ in range(3))
    expected = F.scaled_dot_product_attention(*(tensor.float() for tensor in (q, k, v)))
    wanted = torch.autograd.grad(expected.square().sum(), (q, k, v))
    monkeypatch.setattr(layers, "IN_CACHE", weights)
    monkeypatch.setattr(layers, "fused_attention", counted)
    found = layers.attend(q, k, v)
    assert found.dtype == torch.bfloat16 and fused == (at_once == 0)
    assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    for one, other in zip(torch.autograd.grad(found.float().square().sum(), (q, k, v)), wanted):
        assert_close(one.float(), other.float(), rtol=5e-2, atol=5e-2)
    alone = layers.attend(q[3:4], k[3:4], v[3:4])
    assert torch.equal(alone, found[3:4])  # batch of N equals N singles


@pytest.mark.parametrize("channels", [None, 32])
def test_resampling_halves_and_doubles(channels: int | None) -> None:
    x = torch.randn(2, 32, 6, 4)
    assert Downsample(channels)(x).shape == (2, 32, 3, 2)
    assert Upsample(channels)(x).shape == (2, 32, 12, 8)


def test_plain_resampling_averages_and_repeats() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert torch.equal(Downsample()(x), torch.tensor([[[[3.0]]]]))
    assert torch.equal(Upsample()(x)[0, 0, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))
    assert torch.equal(Downsample()(Upsample()(x)), x)


@pytest.mark.parametrize("resample, size", [(None, 4), ("up", 8), ("down", 2)])
@pytest.mark.parametrize("scale_shift", [True, False])
def test_res_block_starts_as_its_skip_connection(resample: str | None, size: int, scale_shift: bool) -> None:
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 16)
    same = ResBlock(32, 32, 16, 0.0, scale_shift, resample)  # type: ignore[arg-type]
    assert_close(same(x, emb), same.resample(x))
    wider = ResBlock(32, 64, 16, 0.0, scale_shift, resample)  # type: ignore[arg-type]
    assert wider(x, emb).shape == (2, 64, size, size)


@pytest.mark.parametrize("scale_shift", [True, False])
def test_time_embedding_scales_and_shifts_or_is_added_before_the_norm(scale_shift: bool) -> None:
    block = ResBlock(32, 32, 16, 0.0, scale_shift)
    nn.init.normal_(block.get_parameter("out_layers.3.weight"))
    x, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 16)
    h = block.in_layers(x)
    time = block.emb_layers(emb)[:, :, None, None]
    norm, *rest = block.out_layers
    h = norm(h) * (1 + time[:, :32]) + time[:, 32:] if scale_shift else norm(h + time)
    assert_close(block(x, emb), x + nn.Sequential(*rest)(h))
