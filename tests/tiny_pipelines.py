"""Random pipelines of every family at the smallest size: real classes, no network."""

import string

import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from harness.models.single_file import CONFIGS, clip_tokenizer

SIDE = 32
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def rows_of(texts, negative="", side=SIDE):
    """Rows of a plan, one an image, each of its own noise."""
    many = len(texts)
    same = {
        "negative_text": negative,
        "sampler": "own",
        "guidance": 5.0,
        "steps": 2,
        "width": side,
        "height": side,
    }
    return pd.DataFrame({"text": texts, **same, "noise": range(many), "seed": range(many)})


def plainly(pipe, side=SIDE, **arguments):
    """Latents of the first of those rows, by the pipeline itself."""
    return pipe(
        **arguments,
        num_inference_steps=2,
        guidance_scale=5.0,
        width=side,
        height=side,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="latent",
    ).images


def vae(**changes):
    return AutoencoderKL(
        **{
            "block_out_channels": [8, 16],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "sample_size": SIDE,
            "scaling_factor": 0.18215,
        }
        | changes
    )


def flow_vae():
    unquantised = {"use_quant_conv": False, "use_post_quant_conv": False}
    return vae(scaling_factor=1.5, shift_factor=0.06, **unquantised)


def clip(kind=CLIPTextModel, width=32):
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        vocab_size=49_408,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return kind(config).eval()


def unet(**changes):
    return UNet2DConditionModel(
        **{
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "sample_size": SIDE // 2,
            "cross_attention_dim": 32,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        }
        | changes
    )


def t5():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in string.ascii_letters + string.digits + ",.-'"]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(
        d_model=80, d_ff=32, d_kv=8, num_layers=1, num_heads=2, vocab_size=len(tokenizer)
    )
    return tokenizer, T5EncoderModel(config).eval()


def words(family="sd15", name="tokenizer"):
    return clip_tokenizer(CONFIGS / family / name)


def with_one_clip(scheduler, kind=StableDiffusionPipeline, **changes):
    return kind(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=words(),
        unet=unet(**changes),
        scheduler=scheduler,
        **UNCHECKED,
    )


def sd1():
    return with_one_clip(PNDMScheduler(**NOISE, skip_prk_steps=True))


def sd2():
    scheduler = DDIMScheduler(**NOISE, prediction_type="v_prediction", clip_sample=False)
    return with_one_clip(scheduler, use_linear_projection=True)


def lcm():
    return with_one_clip(LCMScheduler(**NOISE), time_cond_proj_dim=8)


def pag():
    """Stands for all pipelines that no family is known of."""
    return with_one_clip(DDIMScheduler(**NOISE, clip_sample=False), StableDiffusionPAGPipeline)


def sdxl(scheduler=None):
    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=clip(),
        tokenizer=words("sdxl"),
        text_encoder_2=clip(CLIPTextModelWithProjection, 24),
        tokenizer_2=words("sdxl", "tokenizer_2"),
        unet=unet(
            attention_head_dim=[4, 8],
            transformer_layers_per_block=[1, 2],
            cross_attention_dim=32 + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            use_linear_projection=True,
        ),
        scheduler=scheduler or EulerDiscreteScheduler(**NOISE),
        add_watermarker=False,
    )


def turbo():
    return sdxl(EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing"))


def sd3(with_t5=True, **changes):
    tokenizer, encoder = t5() if with_t5 else (None, None)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            **{
                "sample_size": SIDE // 2,
                "patch_size": 2,
                "in_channels": 4,
                "out_channels": 4,
                "num_layers": 2,
                "attention_head_dim": 8,
                "num_attention_heads": 4,
                "joint_attention_dim": 80,
                "caption_projection_dim": 32,
                "pooled_projection_dim": 32 + 24,
                "pos_embed_max_size": 16,
            }
            | changes
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=words(),
        text_encoder_2=clip(CLIPTextModelWithProjection, 24),
        tokenizer_2=words("sdxl", "tokenizer_2"),
        text_encoder_3=encoder,
        tokenizer_3=tokenizer,
    )


def sd35():
    return sd3(qk_norm="rms_norm", dual_attention_layers=[0])


def flux(guidance_embeds=True):
    tokenizer, encoder = t5()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=80,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=guidance_embeds,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=flow_vae(),
        text_encoder=clip(),
        tokenizer=words(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
    )


def schnell():
    return flux(guidance_embeds=False)


PIPELINES = {f.__name__: f for f in (sd1, sd2, lcm, sdxl, turbo, sd3, sd35, flux, schnell, pag)}


def build(name):
    """A pipeline with random weights, always the same."""
    torch.manual_seed(0)
    pipe = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_clip_folder(folder):
    """A whole CLIP of transformers with random weights, saved as its own library saves it."""
    config = CLIPConfig(
        text_config=clip().config.to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ).to_dict(),
        projection_dim=32,
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(folder)
    words().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    return folder
