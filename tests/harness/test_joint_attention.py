import pandas as pd
import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from tiny_pipelines import SIDE, build

from harness.generate.sampling import Generator
from harness.models.families import family
from harness.spec.schema import Spec
from harness.taps.activations import ActivationsTap, blocks_of
from harness.taps.attention_record import AttentionRecorder, words_in
from harness.taps.guidance import GuidanceTap
from harness.taps.joint_attention import JointAttentionTap
from harness.taps.trajectory import StepsTap

TEXTS = ["a portrait of a doctor", "cats, two"]
NAMES = ("sd3", "sd35", "flux", "schnell")
SPEC = Spec.model_validate({"checkpoints": {"t": "x"}, "prompts": {"list": ["a"]}})
WIDE = 2 * SIDE  # twice as wide as high: a mix-up of sides would show


@pytest.fixture(scope="module")
def generators():
    return {name: Generator(build(name), 2) for name in NAMES}


def rows(texts=TEXTS, **changes) -> pd.DataFrame:
    settings = {"negative_text": "blurry", "noise": [7, 8], "sampler": "own", "steps": 2}
    settings |= {"guidance": 3.0, "width": WIDE, "height": SIDE, "seed": 0, "switch": -1}
    return pd.DataFrame({"text": texts, "second_text": "two cats"} | settings | changes)


class Eager:
    """Beside the model's own processor: all weights, from hidden states and projections."""

    def __init__(self, plain, name, seen, text_length):
        self.plain, self.name, self.seen, self.text_length = plain, name, seen, text_length

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
    ):
        rotary = image_rotary_emb

        def by_head(states, project, norm):
            states = project(states).unflatten(-1, (attn.heads, -1))
            if norm is not None:
                states = norm(states)
            return states.transpose(1, 2)

        picture, prompt = hidden_states, encoder_hidden_states
        q, k = (
            by_head(picture, getattr(attn, f"to_{x}"), getattr(attn, f"norm_{x}")) for x in "qk"
        )
        text = slice(0, self.text_length)
        if prompt is not None:
            more_q, more_k = (
                by_head(
                    prompt, getattr(attn, f"add_{x}_proj"), getattr(attn, f"norm_added_{x}", None)
                )
                for x in "qk"
            )
            if rotary is None:
                text = slice(q.shape[2], None)
                q, k = torch.cat([q, more_q], 2), torch.cat([k, more_k], 2)
            else:
                q, k = torch.cat([more_q, q], 2), torch.cat([more_k, k], 2)
        if rotary is not None:
            q, k = (apply_rotary_emb(x, rotary) for x in (q, k))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).sum(1)
        mine = torch.ones(q.shape[2], dtype=bool)
        mine[text] = False
        self.seen.setdefault(self.name, []).append(weights[:, mine][:, :, text])
        return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, rotary)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_an_eager_softmax_and_the_image_stays(generators, name):
    generator = generators[name]
    named, plain = generator.family, generator.denoise(rows())
    length = sum(r.length for r in named.readers())
    seen: dict[str, list[torch.Tensor]] = {}
    own = {n: layer.processor for n, layer in named.attention().items()}
    for n, layer in named.attention().items():
        layer.processor = Eager(own[n], n, seen, length)
    generator.denoise(rows())
    for n, layer in named.attention().items():
        layer.processor = own[n]
    words = [words_in(named, text)[0] for text in TEXTS]
    guided = name.startswith("sd3")
    negatives = [words_in(named, "blurry")[0]] * 2 if guided else None
    tap = JointAttentionTap(named, words, (8, 16), negatives, layers=True)
    with tap.attached():
        tapped = generator.denoise(rows())
    assert torch.equal(tapped, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in named.model.modules())
    assert len(tap.layers) == 2
    assert len(tap.timesteps) == 2
    total = sum(torch.stack(each).sum(0) for each in seen.values())
    halves = [(tap.prompt, words, total[-2:])]
    if guided:
        halves.append((tap.negative, negatives, total[:2]))
    for half, of_half, wanted in halves:
        for image, own_words in enumerate(of_half):
            for n, (word, positions) in enumerate(own_words):
                by_hand = wanted[image][:, list(positions)].sum(-1)
                got = half.maps[8, 16][image, :, n]
                torch.testing.assert_close(got, by_hand, atol=1e-5, rtol=1e-4, msg=word)
    mass = torch.stack(tap.prompt.moments)[..., 0].sum(-1) / len(tap.layers)
    assert (mass > 0.02).all()
    assert (mass < 0.98).all()  # the rest is given to the image itself


def test_a_word_is_the_tokens_of_clip_and_of_t5(generators):
    named = generators["sd3"].family
    words, cut = words_in(named, "a doctor")
    assert cut == ""
    assert [w for w, _ in words] == ["a", "doctor", "<start>", "<end>"]
    held = dict(words)
    assert held["<start>"] == (0,)
    assert held["doctor"][0] == 2
    assert all(77 <= p < 77 + 256 for p in held["doctor"][1:])
    assert len(held["doctor"]) == 1 + len("▁doctor")  # the tiny T5 spells letter by letter
    everything = sorted(p for _, positions in words for p in positions)
    assert len(set(everything)) == len(everything)
    assert everything[-1] == 77 + 256 - 1
    only_t5 = dict(words_in(generators["flux"].family, "a doctor")[0])
    assert list(only_t5) == ["a", "doctor", "<end>"]


@pytest.mark.parametrize("name", NAMES)
def test_every_tap_follows_a_transformer_and_changes_nothing(generators, name):
    generator = generators[name]
    plain = generator.denoise(rows())
    taps = [AttentionRecorder(1, False, False, 0), StepsTap(5), ActivationsTap(3), GuidanceTap()]
    assert torch.equal(generator.denoise(rows(), taps), plain)
    attention, steps, blocks, guidance = (tap.records()[1] for tap in taps)
    assert attention.notes["prompt"]["words"][:2] == ["cats", "two"]
    assert attention.arrays["prompt/maps"].shape[1:] == (8, 16)
    # A flow ends without noise: what is predicted last is what comes out.
    torch.testing.assert_close(torch.from_numpy(steps.arrays["x0"][-1]), plain[1])
    assert abs(steps.arrays["x0"][0] - plain[1].numpy()).max() > 1e-3
    assert blocks.notes["blocks"] == list(blocks_of(generator.family))
    noise = torch.randn((1, 4, 16, 32), generator=torch.Generator().manual_seed(8))[0]
    small = torch.nn.functional.adaptive_avg_pool2d(noise, (16, 16))
    torch.testing.assert_close(torch.from_numpy(blocks.arrays["noise"]), small)
    assert bool(guidance.notes["why"]) == (not name.startswith("sd3"))


@pytest.mark.parametrize("name", ["sd3", "flux", "schnell"])
def test_a_switch_exchanges_the_whole_prompt(generators, name):
    generator = generators[name]
    model, second = generator.family.model, generator.embed("two cats")
    forwards = [0]

    def exchange(module, args, kwargs):
        forwards[0] += 1
        if forwards[0] != 2:
            return None
        now = dict(kwargs)
        for key, name in (
            ("encoder_hidden_states", "prompt_embeds"),
            ("pooled_projections", "pooled_prompt_embeds"),
        ):
            value = second[name].expand(2, *second[name].shape[1:])
            now[key] = torch.cat([kwargs[key][:-2], value])
        return args, now

    handle = model.register_forward_pre_hook(exchange, with_kwargs=True)
    by_hand = generator.denoise(rows())
    handle.remove()
    plain = generator.denoise(rows())
    assert torch.equal(generator.denoise(rows(switch=1)), by_hand)
    assert not torch.equal(by_hand, plain)
    assert torch.equal(generator.denoise(rows(switch=2)), plain)  # the end: nothing is exchanged
    assert torch.equal(generator.denoise(rows()), plain)  # the first prompt is as it was


def test_of_a_pipeline_of_no_known_family_nothing_inside_is_followed():
    generator = Generator(build("pag"), 2)
    plain = generator.denoise(rows(width=SIDE))
    taps = [AttentionRecorder(1, False, False, 0), StepsTap(5), ActivationsTap(3), GuidanceTap()]
    assert torch.equal(generator.denoise(rows(width=SIDE), taps), plain)
    assert [len(tap.records()) for tap in taps] == [2] * 4
    assert all(not record.arrays for tap in taps for record in tap.records())
    assert family(generator.pipe).readers() == []
