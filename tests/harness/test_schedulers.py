"""Every sampler follows the checkpoint's noise schedule, or is refused."""

import itertools

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler, PNDMScheduler
from ldm_files import tiny_files
from safetensors.torch import load_file, save_file

from harness.errors import AuditError
from harness.models.safetensors_header import read_header
from harness.models.schedulers import ignored_settings, sampler, scheduler_classes
from harness.models.single_file import load_with_configs
from harness.spec.samplers import SHORT, names_a_sampler

# diffusers hands KDPM2 torch numbers in a way that numpy warns of
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]
PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OPTIONS = [
    {},
    {"rescale_betas_zero_snr": True},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": torch.linspace(0.001, 0.02, 1000).tolist()},
    {"num_train_timesteps": 500},
    {"prediction_type": "v_prediction"},
]


def schedule_of(own):
    """Alphas by the definition, with the terminal signal taken away where that is asked for."""
    return DDIMScheduler.from_config(own.config).alphas_cumprod


@pytest.mark.parametrize(
    ("name", "options"), list(itertools.product(SHORT, OPTIONS)), ids=lambda v: str(v)[:40]
)
def test_the_noise_schedule_is_the_checkpoints_or_the_sampler_is_refused(name, options):
    own = DDIMScheduler(**PLAIN | options)
    try:
        made = sampler(own, name)
    except AuditError as error:
        assert "rescale_betas_zero_snr" in str(error)  # noqa: PT017
        assert options.get("rescale_betas_zero_snr")
        return
    assert torch.allclose(made.alphas_cumprod, schedule_of(own), rtol=0, atol=1e-6)
    assert made.config.prediction_type == own.config.prediction_type
    made.set_timesteps(10)
    if hasattr(made, "sigmas") and "karras" not in name and name != "lcm":
        # The largest sigma that is used is that of the first step in the checkpoint's schedule.
        first = own.alphas_cumprod[int(made.timesteps[0])]
        first = first if first > 0 else torch.tensor(2**-24)
        want = float(((1 - first) / first) ** 0.5)
        assert float(made.sigmas[0]) == pytest.approx(want, rel=1e-3)


def test_some_samplers_know_zero_terminal_snr_and_some_do_not():
    own = DDIMScheduler(**PLAIN, rescale_betas_zero_snr=True)
    assert float(sampler(own, "euler").alphas_cumprod[-1]) < 1e-6
    with pytest.raises(AuditError, match=r"'lms' does not follow .*those that do: own, ddim"):
        sampler(own, "lms")


def test_a_setting_that_the_own_sampler_does_not_know_is_named():
    own = PNDMScheduler.from_config(DDIMScheduler(**PLAIN, rescale_betas_zero_snr=True).config)
    assert ignored_settings(own) == ["rescale_betas_zero_snr"]
    assert float(own.alphas_cumprod[-1]) > 1e-3  # it has no effect
    with pytest.raises(AuditError, match="one that its own sampler does not know"):
        sampler(own, "ddim")
    assert ignored_settings(EulerDiscreteScheduler(rescale_betas_zero_snr=True)) == []
    assert ignored_settings(LMSDiscreteScheduler()) == []
    assert ignored_settings(None) == []


def test_a_file_with_zero_terminal_snr_gets_a_sampler_that_knows_it(tmp_path):
    folder, _, file = tiny_files(tmp_path)["sd15"]
    save_file(load_file(file) | {"ztsnr": torch.ones(1)}, tmp_path / "z.safetensors")
    pipe = load_with_configs(read_header(tmp_path / "z.safetensors"), torch.float32, folder)
    assert ignored_settings(pipe.scheduler) == []
    assert float(pipe.scheduler.alphas_cumprod[-1]) < 1e-6


def test_the_spec_and_the_samplers_have_one_list():
    assert all(names_a_sampler(n) for n in ("own", *SHORT))
    assert all(hasattr(diffusers, class_name) for class_name, _ in SHORT.values())


def test_any_scheduler_of_diffusers_goes_by_its_class():
    own = DDIMScheduler(**PLAIN)
    made = sampler(own, "DEISMultistepScheduler")
    assert type(made) is diffusers.DEISMultistepScheduler
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    assert type(sampler(own, "EulerDiscreteScheduler")) is type(sampler(own, "euler"))
    for name in ("DDPMScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"):
        assert name in scheduler_classes()  # each goes, or is refused in one line
        try:
            sampler(own, name)
        except AuditError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    with pytest.raises(AuditError, match=r"is no scheduler of .*; the nearest is 'DDIMSch"):
        sampler(own, "DDIMMScheduler")


def test_what_is_no_scheduler_is_refused_before_anything_is_loaded():
    assert names_a_sampler("DEISMultistepScheduler")
    for name in ("euler b", "StableDiffusionPipeline", "os.system", "dpm++"):
        assert not names_a_sampler(name)
