import pandas as pd

from harness.plan.cells import Arm, make_plan, noise_seed, units_of
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec

PROMPTS = [Prompt("a cat", {}, "", {}), Prompt("a dog", {}, "", {})]
ARM = Arm(
    {"text_encoder": "t", "denoiser": "u"}, {"own": "s"}, {"own": "v1", "copy": "v1"}, (64, 64)
)


def spec_of(**changes) -> Spec:
    base = {
        "checkpoints": {"a": "x"},
        "vaes": {"own": "own", "copy": "y"},
        "prompts": {"list": ["a cat", "a dog"]},
        "seeds": 3,
        "batch_size": 4,
        "guidance": [1, 5],
    }
    return Spec.model_validate(base | changes)


def test_everything_is_crossed_and_counted_once():
    plan = make_plan(spec_of(), PROMPTS, {"a": ARM})
    assert len(plan) == 2 * 2 * 3 * 2  # guidance, prompts, seeds, VAEs
    assert plan["trajectory"].nunique() == 12
    assert [len(u.rows["trajectory"].unique()) for u in units_of(plan)] == [4, 2, 4, 2]


def test_a_renamed_copy_of_a_vae_gives_the_same_cells():
    plan = make_plan(spec_of(), PROMPTS, {"a": ARM})
    own, copy = (set(plan.loc[plan["vae"] == v, "cell"]) for v in ("own", "copy"))
    assert own == copy


def test_another_vae_gives_other_cells_of_the_same_trajectories():
    arm = ARM._replace(vaes={"own": "v1", "copy": "v2"})
    plan = make_plan(spec_of(), PROMPTS, {"a": arm})
    assert plan["cell"].nunique() == 2 * plan["trajectory"].nunique()


def test_noise_is_shared_by_arms_and_never_by_prompts_unless_asked():
    assert noise_seed("a cat", 1, shared=False) != noise_seed("a dog", 1, shared=False)
    assert noise_seed("a cat", 1, shared=True) == noise_seed("a dog", 1, shared=True)
    plan = make_plan(spec_of(), PROMPTS, {"a": ARM})
    assert (plan.groupby(["prompt", "seed"])["noise"].nunique() == 1).all()


def test_without_guidance_the_negative_makes_no_other_cell():
    spec = spec_of(negatives={"none": "", "bad": "ugly"})
    plan = make_plan(spec, PROMPTS, {"a": ARM})
    by_negative = plan.groupby(["guidance", "negative"])["cell"].apply(set)
    assert by_negative[1.0, "none"] == by_negative[1.0, "bad"]
    assert by_negative[5.0, "none"].isdisjoint(by_negative[5.0, "bad"])


def test_more_seeds_leave_the_units_that_were_cut_as_they_are():
    before = make_plan(spec_of(), PROMPTS, {"a": ARM})
    after = make_plan(spec_of(seeds=9), PROMPTS, {"a": ARM}, before)
    both = before.merge(after, on=["cell", "vae", "prompt", "seed", "guidance"])
    assert len(both) == len(before)
    assert (both["unit_x"] == both["unit_y"]).all()
    again = make_plan(spec_of(), PROMPTS, {"a": ARM}, after)
    pd.testing.assert_frame_equal(again, before)


def test_a_checkpoints_own_settings_replace_the_crossed_ones():
    checkpoint = {"source": "x", "trigger": "sks, ", "guidance": 2, "steps": 4}
    plan = make_plan(spec_of(checkpoints={"a": checkpoint}), PROMPTS, {"a": ARM})
    assert set(plan["guidance"]) == {2.0}
    assert set(plan["steps"]) == {4}
    assert set(plan["text"]) == {"sks, a cat", "sks, a dog"}
    assert set(plan["prompt"]) == {"a cat", "a dog"}
