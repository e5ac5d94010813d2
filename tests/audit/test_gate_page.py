from audit.gate.page import _scale


def metric(baseline: float, value: float, low: float, high: float) -> dict:
    return {"bad": "away from the target", "margin": 0.05, "target": 0.5} | {
        "baseline": baseline, "value": value, "low": low, "high": high
    }  # fmt: skip


def test_what_leads_to_the_target_lies_inside_the_margins():
    """Below the target: .03 up to it are no worse, and .05 beyond it are allowed."""
    scale = _scale(metric(0.47, 0.02, -0.01, 0.06))
    assert scale.limits[0] < scale.low
    assert scale.high < scale.limits[1]
    step = (scale.value - scale.zero) / 0.02
    assert abs((scale.limits[1] - scale.zero) / step - 0.08) < 1e-3
    assert abs((scale.limits[0] - scale.zero) / step + 0.05) < 1e-3
    other = _scale(metric(0.53, -0.02, -0.06, 0.01))
    assert other.limits[0] < other.low
    assert other.high < other.limits[1]
