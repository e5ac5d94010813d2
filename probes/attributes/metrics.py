"""What the probe `attributes` measures."""

from __future__ import annotations

from probes.contracts import MetricSpec

SHARE = MetricSpec("share", "share", "share", "target", span=1.0)
CORRECTED_SHARE = SHARE._replace(name="corrected share")
POWERED_SHARE = SHARE._replace(name="prediction-powered share")
MEAN_SHARE = SHARE._replace(name="mean share")
SHARE_DIFFERENCE = SHARE.difference()
TOTAL_VARIATION = MetricSpec("total variation", "distance", "share", "lower", span=1.0)
CORRECTED_TOTAL_VARIATION = TOTAL_VARIATION._replace(name="corrected total variation")
MEAN_TOTAL_VARIATION = TOTAL_VARIATION._replace(name="mean total variation")
NOT_COUNTED = MetricSpec("not counted", "share", "share", "lower", span=1.0)
DISAGREEMENT = MetricSpec("disagreement", "share", "share", span=1.0)
ASSOCIATION = MetricSpec("association (Cramér's V)", span=1.0)
LIKENESS = MetricSpec(
    "CLIP score (image-prompt cosine)", "level", "", "higher", "likeness", span=2.0
)
LIKENESS_DIFFERENCE = LIKENESS.difference("CLIP score difference")
DIVERSITY = MetricSpec("diversity (mean pairwise cosine distance)", "level", "", "higher", span=2.0)
MOVED = MetricSpec("change of images of the same seed", unit="of the distance between seeds")
AREA_SCORED = MetricSpec("image area scored", "level", "of the area", "higher", "seen", span=1.0)
