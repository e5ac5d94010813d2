import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)

from harness.taps.attention_record import map_entropy, overlap
from harness.taps.attention_words import CHANCE_OVERLAP
from harness.taps.cross_attention import (
    AttentionTap,
    combined,
    daam_maps,
    feature_size,
    moments_to_numbers,
)

TOKENS, IMAGES, STEPS = 7, 3, 2
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
}


def unet_of(**changes) -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    unet = UNet2DConditionModel(**(config | changes)).eval()
    with torch.no_grad():  # sharper than an untrained model's, so that layers and heads differ
        for name, parameter in unet.named_parameters():
            if ".attn2.to_q" in name or ".attn2.to_k" in name:
                parameter.mul_(4)
    return unet


class Eager(AttnProcessor):
    """diffusers' eager processor; keeps every softmax that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        if encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            scores = attn.get_attention_scores(query, key)
            self.seen.append(scores.unflatten(0, (-1, attn.heads)))
        return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


@torch.no_grad()
def forwards(unet, guided: bool, size: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = IMAGES * (1 + guided)
    out = []
    for step in range(STEPS):
        sample = torch.randn(rows, 4, *size, generator=generator)
        text = torch.randn(rows, TOKENS, 12, generator=generator)
        beside = {"text_embeds": text[:, 0, :8], "time_ids": torch.ones(rows, 6)}
        drawn = unet(sample, 900 - 100 * step, encoder_hidden_states=text, added_cond_kwargs=beside)
        out.append(drawn.sample)
    return out


@pytest.fixture(scope="module", params=["SD 1", "SDXL"])
def unet(request) -> UNet2DConditionModel:
    """The two layouts: SDXL's has pooled text and sizes, several transformers a block."""
    return unet_of(**(SDXL if request.param == "SDXL" else {}))


def eager_sums(unet, guided: bool, size: tuple[int, int]) -> dict[int, torch.Tensor]:
    """By number of pixels: the sum over layers, heads and steps, of every row of the batch."""
    eager = Eager()
    unet.set_attn_processor(eager)
    forwards(unet, guided, size)
    unet.set_attn_processor(AttnProcessor2_0())
    sums: dict[int, torch.Tensor] = {}
    for seen in eager.seen:
        sums[seen.shape[2]] = sums.get(seen.shape[2], 0) + seen.sum(dim=1)
    return sums


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (8, 13)])
def test_maps_equal_an_eager_softmax_under_every_processor(unet, guided, size):
    wanted = eager_sums(unet, guided, size)
    for processor in (AttnProcessor2_0(), AttnProcessor(), SlicedAttnProcessor(2)):
        unet.set_attn_processor(processor)
        tap = AttentionTap(unet, IMAGES, negative=True)
        with tap.attached():
            forwards(unet, guided, size)
        assert sorted(h * w for h, w in tap.prompt.maps) == sorted(wanted)
        for (height, width), maps in tap.prompt.maps.items():
            expected, terms = wanted[height * width], tap.prompt.weight[height, width]
            assert torch.allclose(maps / terms, expected[-IMAGES:] / terms, rtol=0, atol=1e-6)
            assert torch.allclose(maps.sum(-1) / terms, torch.ones(()), rtol=0, atol=1e-6)
            assert tap.negative is not None
            if guided:
                negative = tap.negative.maps[height, width]
                assert torch.allclose(negative / terms, expected[:IMAGES] / terms, atol=1e-6)
            else:
                assert not tap.negative.maps
    unet.set_attn_processor(AttnProcessor2_0())


def test_the_model_computes_the_same_bits_and_nothing_stays_behind(unet):
    plain = forwards(unet, True, (8, 8))
    tap = AttentionTap(unet, IMAGES, negative=True, layers=True, daam=True)
    with tap.attached():
        tapped = forwards(unet, True, (8, 8))
    assert all(torch.equal(a, b) for a, b in zip(plain, tapped, strict=True))
    with (
        pytest.raises(RuntimeError, match="saw 6 rows for 4 images"),
        AttentionTap(unet, 4).attached(),
    ):
        forwards(unet, True, (8, 8))
    hooks = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_numbers_over_steps_are_those_of_the_maps(unet):
    tap = AttentionTap(unet, IMAGES, layers=True)
    with tap.attached():
        forwards(unet, True, (8, 8))
    half = tap.prompt
    assert len(half.moments) == len(tap.timesteps) == STEPS
    mass, centre, spread = moments_to_numbers([m[0] for m in half.moments])
    assert float(mass.sum()) == pytest.approx(STEPS * len(tap.layers), rel=1e-6)
    # The same from the maps: every layer weighs alike, whatever its resolution.
    expected = torch.zeros(TOKENS, dtype=torch.double)
    for size, maps in half.maps.items():
        expected += maps[0].double().mean(dim=0) / 4 / 1
        assert half.weight[size] % 4 == 0
    assert torch.allclose(mass, expected, rtol=1e-6)
    by_layer = torch.stack([m[0] for m in half.by_layer.values()]).double().sum(dim=0)
    assert torch.allclose(by_layer, mass, rtol=1e-6)
    assert ((centre > 0) & (centre < 1)).all()
    assert ((spread > 0) & (spread < 0.71)).all()


def test_state_does_not_grow_with_the_maps(unet):
    held = []
    for rounds in (1, 3):
        tap = AttentionTap(unet, IMAGES)
        with tap.attached():
            for _ in range(rounds):
                forwards(unet, False, (8, 8))
        held.append(tap.prompt.nbytes())
    a_forward = IMAGES * (TOKENS * 4 + 1) * 4
    assert held[1] - held[0] == 2 * STEPS * a_forward


def test_state_of_stable_diffusion_1_5_at_512_is_below_two_megabytes():
    # The same resolutions and layers, with few channels and one head.
    unet = unet_of(
        sample_size=64,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=1,
    )
    tap = AttentionTap(unet, 1)
    assert len(tap.layers) == 16
    with tap.attached(), torch.no_grad():
        unet(torch.randn(1, 4, 64, 64), 1, encoder_hidden_states=torch.randn(1, 77, 12))
    fifty_steps = tap.prompt.nbytes() + 49 * (77 * 4 + 1) * 4
    assert fifty_steps == 4 * 77 * (4096 + 1024 + 256 + 64) + 50 * (77 * 4 + 1) * 4
    assert fifty_steps < 2_000_000


class OneLayer(torch.nn.Module):
    """A model of one attn2 that hands its pixels on as queries and its text as keys."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2 = Attention(query_dim=2, cross_attention_dim=2, heads=1, dim_head=2)
        with torch.no_grad():
            self.attn2.to_q.weight.copy_(torch.eye(2))
            self.attn2.to_k.weight.copy_(torch.eye(2))

    def forward(self, sample, timestep, encoder_hidden_states):
        return self.attn2(sample.flatten(2).transpose(1, 2), encoder_hidden_states)


def test_a_map_known_by_hand():
    # One row of two pixels: the left looks along the first token, the right along none.
    sample = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])
    text = torch.eye(2)[None]
    model = OneLayer()
    tap = AttentionTap(model, 1, daam=True)
    with tap.attached(), torch.no_grad():
        model(sample, 500, text)
        model(sample, 400, text)
    left = 1 / (1 + math.exp(-2 / math.sqrt(2)))
    wanted = [[[left, 1 - left], [0.5, 0.5]]]
    np.testing.assert_allclose(combined(tap.prompt, 0).numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(daam_maps(tap.prompt, 0, (1, 2)) / 2, wanted, atol=1e-6)
    mass, centre, _ = moments_to_numbers([m[0] for m in tap.prompt.moments])
    np.testing.assert_allclose(mass / 2, [(left + 0.5) / 2, (1.5 - left) / 2], atol=1e-6)
    # Pixel centres are at x = 1/4 and 3/4.
    assert float(centre[0, 1]) == pytest.approx((left / 4 + 0.5 * 3 / 4) / (left + 0.5))
    assert [float(t) for t in tap.timesteps] == [500, 400]


def test_daam_order_of_operations_is_near_ours_and_leaves_out_the_middle(unet):
    tap = AttentionTap(unet, IMAGES, daam=True)
    with tap.attached():
        forwards(unet, True, (8, 8))
    ours = combined(tap.prompt, 1) * STEPS
    theirs = daam_maps(tap.prompt, 1, (8, 8))
    assert float((ours - theirs).abs().max()) < 0.25 * float(theirs.max())
    kept = {k: v for k, v in tap.prompt.heads.items() if not k.startswith("mid_block")}
    assert 0 < len(kept) < len(tap.prompt.heads)  # The middle block is left out.
    big = [w[1].mean(dim=0).unflatten(0, s) for s, w in kept.values() if s == (8, 8)]
    assert len(big) == 3  # at full size nothing is enlarged: these are exact
    tap.prompt.heads = {k: v for k, v in tap.prompt.heads.items() if v[0] == (8, 8)}
    exact = daam_maps(tap.prompt, 1, (8, 8))
    assert torch.allclose(exact, torch.stack(big).mean(dim=0), atol=1e-6)


def test_layers_that_cannot_be_followed_are_named():
    unet = unet_of()
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    layer.norm_q = torch.nn.Identity()
    tap = AttentionTap(unet, IMAGES)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    assert tap.missing == {name: "q and k are normalised after their projections"}
    with tap.attached():
        forwards(unet, False, (8, 8))
    # Three layers of four heads at either size, two forwards; the middle would be a fourth.
    assert tap.prompt.weight == {(8, 8): 24, (4, 4): 24}
    bare = AttentionTap(torch.nn.Linear(2, 2), 1)
    assert (bare.layers, bare.missing) == ({}, {})


@pytest.mark.parametrize(
    ("latent", "pixels", "wanted"),
    [((8, 8), 64, (8, 8)), ((9, 13), 35, (5, 7)), ((64, 96), 96, (8, 12)), ((1, 1), 1, (1, 1))],
)
def test_feature_sizes(latent, pixels, wanted):
    assert feature_size(latent, pixels) == wanted


def test_a_feature_map_of_no_size_is_refused():
    with pytest.raises(RuntimeError, match="63 positions fit no halving of 8 x 8"):
        feature_size((8, 8), 63)


def test_overlap_and_entropy_by_hand():
    left = np.zeros((4, 4), np.float32)
    left[:, 0] = 1
    top = np.zeros((4, 4), np.float32)
    top[0] = 1
    found = overlap(np.stack([left.ravel(), top.ravel()]))
    np.testing.assert_allclose(found, [[1, 1 / 7], [1 / 7, 1]], rtol=1e-6)
    flat = map_entropy(torch.tensor([[1.0, 1, 1, 1], [5, 0, 0, 0], [1, 1, 0, 0]]))
    np.testing.assert_allclose(flat, [1, 0, 0.5], atol=1e-12)


def test_chance_overlap_is_that_of_unrelated_maps():
    rng = np.random.default_rng(0)
    found = overlap(rng.random((60, 4096)).astype(np.float32))
    off = found[~np.eye(60, dtype=bool)]
    assert off.mean() == pytest.approx(CHANCE_OVERLAP, abs=0.002)
