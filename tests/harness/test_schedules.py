"""Samplers step at the noise levels of k-diffusion's schedules, whatever diffusers' class does."""

import itertools
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from scipy import stats

from harness.errors import AuditError
from harness.models.schedulers import sampler, scheduler_classes, with_zero_terminal_snr
from harness.models.schedules import levels, trained_levels
from harness.spec.samplers import SCHEDULES, SHORT, class_of, names_a_sampler, spelled, split

# diffusers' KDPM2 hands torch's numbers to numpy in a way that numpy warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPPING = [n for n in SHORT if n not in ("ddim", "lcm", "dpm++ 2m karras")]
ENDING_BEFORE_0 = ("DEISMultistepScheduler", "SASolverScheduler")
SLOW = ("dpm2", "dpm2 a")  # a second for each schedule, in diffusers itself
CLASSES = ["DEISMultistepScheduler", "DPMSolverSinglestepScheduler", "SASolverScheduler"]


def trained():
    """Of Stable Diffusion, written out: betas are squares of equal steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    return ((1 - kept) / kept).sqrt().numpy()


def at(step):
    """Level of a training step that need not be whole."""
    table, low = trained(), min(int(step), 998)
    w = step - low
    return math.exp((1 - w) * math.log(table[low]) + w * math.log(table[low + 1]))


def by_hand(schedule, n):
    """k-diffusion's get_sigmas and the WebUIs' additions, level by level."""
    low, high = trained()[0], trained()[-1]
    if schedule == "uniform":
        return [at(999 * (n - 1 - i) / (n - 1)) for i in range(n)]
    if schedule == "sgm uniform":
        return [at(999 * (n - i) / n) for i in range(n)]
    if schedule == "simple":
        return [trained()[999 - int(i * 1000 / n)] for i in range(n)]
    if schedule == "exponential":
        return [high * (low / high) ** (i / (n - 1)) for i in range(n)]
    if schedule == "karras":
        ends = high ** (1 / 7), low ** (1 / 7)
        return [(ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** 7 for i in range(n)]
    shares = [stats.beta.ppf(1 - i / (n - 1), 0.6, 0.6) for i in range(n)]
    return [low + share * (high - low) for share in shares]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_formula_by_hand(schedule):
    table = trained()
    assert trained_levels(DDIMScheduler(**PLAIN)) == pytest.approx(table, rel=2e-4)
    for n in (2, 5, 20, 28):
        assert levels(schedule, table, n) == pytest.approx(by_hand(schedule, n), rel=1e-9)


def test_numbers_that_are_well_known():
    """Stable Diffusion's noise goes from 14.61 to .029; Karras of 3 has a mean of roots."""
    table = trained()
    assert (table[-1], table[0]) == (
        pytest.approx(14.6146, abs=1e-3),
        pytest.approx(0.0292, abs=1e-4),
    )
    middle = ((14.6146 ** (1 / 7) + 0.02916 ** (1 / 7)) / 2) ** 7
    assert levels("karras", table, 3)[1] == pytest.approx(middle, rel=1e-3)
    assert levels("simple", table, 10)[1] == table[899]


@pytest.mark.parametrize("name", [*STEPPING, *CLASSES])
def test_every_sampler_steps_at_every_schedules_levels(name):
    """Whatever spacing of steps its checkpoint's configuration wants."""
    schedules = SCHEDULES[-1:] if name in SLOW else SCHEDULES
    for schedule, spacing in zip(schedules, itertools.cycle(("leading", "trailing"))):
        own = DDIMScheduler(**PLAIN, timestep_spacing=spacing, steps_offset=1)
        made = sampler(own, name, schedule)
        assert type(made).__name__ == class_of(name)[0]
        made.set_timesteps(12)
        seen = np.array(list(dict.fromkeys(made.sigmas.tolist())))  # second order has each twice
        assert seen[:12] == pytest.approx(by_hand(schedule, 12), rel=3e-4)
        assert len(seen) == 12 + (name not in ENDING_BEFORE_0)
        assert made.config.schedule == schedule  # so that its images are told apart


def test_the_plain_name_dpm_2m_karras_is_the_schedule_by_its_name():
    own = DDIMScheduler(**PLAIN)
    short, made = sampler(own, "dpm++ 2m karras"), sampler(own, "dpm++ 2m", "karras")
    for one in (short, made):
        one.set_timesteps(20)
    assert torch.allclose(short.sigmas, made.sigmas, rtol=1e-5)
    assert isinstance(short, DPMSolverMultistepScheduler)


def test_diffusers_own_switch_takes_another_range():
    """Why its switches are not used: Karras from the level of the first step it would have made."""
    own = DDIMScheduler(**PLAIN, timestep_spacing="leading", steps_offset=1)
    theirs = diffusers.EulerDiscreteScheduler.from_config(own.config, use_karras_sigmas=True)
    ours = sampler(own, "euler", "karras")
    for one in (theirs, ours):
        one.set_timesteps(12)
    assert float(theirs.sigmas[0]) < 12 < 14.6 < float(ours.sigmas[0])


def test_every_class_takes_a_schedule_or_says_in_a_line_that_it_does_not():
    own = DDIMScheduler(**PLAIN)
    taken = []
    for name in scheduler_classes():
        if name.startswith("KDPM2"):
            continue
        try:
            sampler(own, name, "beta")
        except AuditError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
        else:
            taken.append(name)
    assert {class_of(n)[0] for n in STEPPING if n not in SLOW} | set(CLASSES) <= set(taken)
    with pytest.raises(AuditError, match=r"'beta': DDIMScheduler does not step from noise level"):
        sampler(own, "ddim", "beta")


def test_arguments_of_a_class():
    own = DDIMScheduler(**PLAIN)
    made = sampler(own, "dpm++ 2m", None, {"solver_order": 3, "timestep_spacing": "trailing"})
    assert (made.config.solver_order, made.config.timestep_spacing) == (3, "trailing")
    flow = FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert sampler(flow, "own", None, {"shift": 3.0}).config.shift == 3.0
    assert sampler(own, "own", None, {"timestep_spacing": "trailing"}).config != own.config
    for name, arguments, why in (
        (
            "dpm++ 2m",
            {"solver_ordr": 3},
            "'solver_ordr': .* no such argument; the nearest is",
        ),
        ("euler", {"beta_start": 0.1}, r"'beta_start' says what the denoiser was trained on"),
        ("euler", {"rescale_betas_zero_snr": True}, "was trained on"),
        ("dpm++ 2m", {"solver_type": "x"}, r"'dpm\+\+ 2m' with .* cannot follow"),
        ("euler", {"timestep_spacing": "middle"}, "cannot follow"),
    ):
        with pytest.raises(AuditError, match=why):
            sampler(own, name, None, arguments)
    with pytest.raises(AuditError, match=r"schedule 'beta' does not go with .*Flow"):
        sampler(flow, "own", "beta")


def test_zero_terminal_snr():
    own = DDIMScheduler(**PLAIN)
    made = with_zero_terminal_snr(own)
    assert float(made.alphas_cumprod[-1]) < 1e-7 < float(own.alphas_cumprod[-1])
    assert made.config.timestep_spacing == "trailing"
    pndm = with_zero_terminal_snr(diffusers.PNDMScheduler(**PLAIN))
    assert isinstance(pndm, DDIMScheduler)
    euler = sampler(made, "euler", "karras")
    euler.set_timesteps(8)
    assert float(euler.sigmas[0]) == pytest.approx(4096, rel=1e-3)  # alpha of 2 ** -24
    assert bool(euler.sigmas.isfinite().all())
    with pytest.raises(AuditError, match="zero_terminal_snr: does not go with"):
        with_zero_terminal_snr(FlowMatchEulerDiscreteScheduler())


def test_names():
    assert split("heun sgm uniform") == ("heun", "sgm uniform")
    assert spelled("DPM++ 2M SDE  Karras") == "dpm++ 2m sde karras"
    assert spelled("Euler a SGM Uniform") == "euler a sgm uniform"
    for name in ("euler karras", "DEISMultistepScheduler beta", "dpm++ 2m karras", "own"):
        assert names_a_sampler(name)
    for name in ("karras", "own karras", "euler karras beta", "euler polyexponential", " beta"):
        assert not names_a_sampler(name)
