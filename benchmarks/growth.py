"""How cost grows with prompts, VAEs and probes: `python -m benchmarks.growth`.

Whole audits of `balanced` at guidance 3, from the plan to the last score, in interleaved pairs
against the smallest; processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from audit.pipeline.run import complete
from audit.pipeline.session import open_audit
from benchmarks.pairs import ratio
from reference.world import ROLES, neutral_prompt

PROMPTS = 4
VAES = ("faithful", "pale", "flat", "coarse")
PROBES = ("vae", "spectrum", "text", "attention", "steps", "latents", "negatives", "memory")
MORE: dict[str, dict[str, Any]] = {
    "vae": {"vaes": {"own": "own", "pale": "reference:pale"}},
    "spectrum": {"vaes": {"own": "own", "pale": "reference:pale"}},
    "negatives": {"doses": {"negatives": ["woman", "beard"], "at": [0, 1, 2]}},
}
"""What a probe needs before it has anything to measure."""


def audit_of(**changes: Any) -> Callable[[], None]:
    """A whole audit in a folder of its own."""
    spec = {
        "name": "growth",
        "checkpoints": {"balanced": "reference:balanced"},
        "prompts": {"list": [neutral_prompt(r) for r in ROLES[:PROMPTS]]},
        "seeds": 8,
        "steps": 12,
        "guidance": 3,
        "attributes": ["world-gender"],
        "classifiers": {"small": "reference:balanced"},
        "batch_size": 16,
        "device": "cpu",
        "dtype": "float32",
    }

    def run() -> None:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "audit.yaml"
            path.write_text(yaml.safe_dump(spec | changes))
            complete(open_audit(path, Path(name) / "run"), lambda text: None)

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"processor time against {PROMPTS} prompts, 8 seeds, 1 VAE, the probe attributes alone")
    base = audit_of()

    def row(name: str, changes: dict[str, Any], to: Callable[[], None] = base) -> None:
        print(f"{name}: {ratio(to, audit_of(**changes), rounds, time.process_time)}", flush=True)

    for times in (2, 4):
        prompts = [neutral_prompt(r) for r in ROLES[: times * PROMPTS]]
        row(f"{times * PROMPTS} prompts", {"prompts": {"list": prompts}})
    for count in (2, 4):
        row(f"{count} VAEs", {"vaes": {name: f"reference:{name}" for name in VAES[:count]}})
    for probe in PROBES:
        more = MORE.get(probe, {})
        swapped = {k: v for k, v in more.items() if k == "vaes"}
        changes = more | {"probes": ["attributes", probe]}
        row(f"probe {probe}", changes, audit_of(**swapped) if swapped else base)


if __name__ == "__main__":
    main()
