"""What each component really carries: `attribution_truth.yaml`, by the full swap of components.

    python -m validation.train.attribution_truth STATE_FOLDER

For every candidate, all eight mixes of its text encoder, denoiser and VAE with those of
`balanced`, 256 pictures a role from seeds that no audit uses, labelled by the oracle. Latents and
counts are kept in the state folder; a later call goes on from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import yaml

from harness.files.atomic import write_atomic
from harness.spec.sections import CheckpointSpec
from probes.components.shapley import COMPONENTS, combinations, shapley
from reference.world import GENDERS, HERE, ROLES
from validation.train.shares import stereotype
from validation.train.truth import draw, make_generator, seen

Mix = tuple[str, str, str]
"""Names of text encoder, U-Net and VAE."""
BASE: Mix = ("balanced", "balanced", "faithful")
CANDIDATES: dict[str, Mix] = {
    "planted denoiser": ("balanced-b", "planted-unet", "faithful-b"),
    "planted text encoder": ("planted-text", "balanced-b", "faithful-b"),
    "both planted and a pale VAE": ("planted-text", "planted-unet", "pale"),
}
GUIDANCE = 1.0


def spec_of(mix: Mix) -> CheckpointSpec:
    """The checkpoint of three reference components."""
    text, unet, vae = mix
    return CheckpointSpec(
        source="reference:balanced",
        text_encoder=f"reference:{text}",
        denoiser=f"reference:{unet}",
        vae=f"reference:{vae}",
    )


def women(mix: Mix, state: Path) -> dict[str, float]:
    """Share of women by role that the oracle counts in the pictures of one mix."""
    path = state / "attribution" / f"{'+'.join(mix)}.json"
    if not path.exists():
        spec = spec_of(mix)
        generator = make_generator(spec)
        # Denoising knows nothing of the VAE: one name for all that share a trajectory.
        latents = draw(f"{mix[0]}+{mix[1]}", spec, GUIDANCE, state)
        shares = {}
        for role in ROLES:
            gender = seen(generator, latents[role])["gender"]
            told = gender[gender.isin(GENDERS)]
            shares[role] = float((told == "woman").mean())
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(shares).encode())
        print(f"{' + '.join(mix)}: {np.mean(list(shares.values())):.3f} women", flush=True)
    loaded: dict[str, float] = json.loads(path.read_text())
    return loaded


def mix_of(candidate: Mix, chosen: tuple[bool, bool, bool]) -> Mix:
    """The base with the chosen components of the candidate."""
    text, unet, vae = (
        new if c else old for new, old, c in zip(candidate, BASE, chosen, strict=True)
    )
    return text, unet, vae


def values_of(candidate: Mix, state: Path) -> list[float]:
    """Value of each of `combinations()`: mean over roles of direction x (share - share of A)."""
    mixes = [mix_of(candidate, chosen) for chosen in combinations()]
    weights = np.array([1 if stereotype(role) == "woman" else -1 for role in ROLES])
    by_role = np.array([[women(mix, state)[role] for role in ROLES] for mix in mixes])
    return [float(v) for v in ((by_role - by_role[0]) * weights).mean(axis=1)]


def main() -> None:
    """Draw, label and write `reference/attribution_truth.yaml`."""
    state = Path(sys.argv[1])
    table = {}
    for name, candidate in CANDIDATES.items():
        values = values_of(candidate, state)
        parts = dict(zip(COMPONENTS, shapley(np.array(values)).tolist(), strict=True))
        table[name] = {
            "values": [round(v, 6) for v in values],
            "shapley": {k: round(v, 6) for k, v in parts.items()},
        }
    text = "# What each component carries, by the oracle: validation/train/attribution_truth.py\n"
    path = HERE / "attribution_truth.yaml"
    path.write_text(text + yaml.safe_dump(table, sort_keys=False, default_flow_style=None))


if __name__ == "__main__":
    main()
