"""The command `audit`. Heavy imports are inside the commands: `audit --help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from audit.commands.errors import BUG, Commands, one_line_errors, say_bug
from audit.commands.labels import LABEL_MAP, labels_group
from audit.commands.report import report_command
from dashboard.command import dashboard_command, export_command
from harness import __version__
from harness.errors import AuditError, reason
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="audit")
def main() -> None:
    """Audit text-to-image models: which bias, how sure, and which part carries it."""


main.add_command(dashboard_command)
main.add_command(export_command)


@main.command("run")
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder; default: SPEC's file name with -run.")
@click.option("--low-memory", is_flag=True, help="For GPUs of 8 GB: as speed.low_memory.")
@stoppable
@one_line_errors
def run_command(spec: Path, out: Path | None, low_memory: bool) -> None:
    """Make what SPEC asks for, measure it, and write the report. Run again to resume."""
    from audit.pipeline.session import open_audit

    audit = open_audit(spec, out or Path(f"{spec.stem}-run"))
    if low_memory:
        speed = audit.spec.speed.model_copy(update={"low_memory": True})
        audit = audit._replace(spec=audit.spec.model_copy(update={"speed": speed}))
    put(work(audit))


def work(audit: Any) -> Path:
    """Plan, generate, score, analyse and report one audit; returns the report's path."""
    from audit.pipeline import analyse
    from audit.pipeline.run import complete

    complete(audit, say)
    findings, figures = analyse.analyse(audit)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    return page


def end(audit: Any, findings: Any, page: Path) -> None:
    """End with exit code 1, after the report's path, where a part of an audit failed."""
    from audit.pipeline.run import problems

    failed = problems(audit, findings)
    for line in failed:
        say(line)
    if failed:
        put(page)
        sys.exit(1)


@main.command("plan")
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder, to count what is there already.")
@click.option(
    "--detect",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="A change of a share, such as 0.1: say instead how many prompts and seeds the gate "
    "needs to fail it, from what the run folder holds as a pilot.",
)
@one_line_errors
def plan_command(spec: Path, out: Path | None, detect: float | None) -> None:
    """Say what SPEC will cost, from a timed warm-up, and what it can show. Writes nothing."""
    if detect is not None:
        from audit.gate import sample_size as detection

        for line in detection.lines(spec, out or Path(f"{spec.stem}-run"), detect):
            put(line)
        return
    from audit.pipeline import estimate
    from audit.pipeline.plan import plan_audit
    from audit.pipeline.session import open_audit

    audit = open_audit(spec, out or Path(f"{spec.stem}-run"))
    plan, _ = plan_audit(audit, say)
    for line in estimate.lines(audit, plan):
        put(line)


@main.command("score")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Run folder.")
@click.option("--csv", type=FILE, help="Columns file, prompt, model, pair, mask; others: labels.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    default=["gender-presentation"],
    show_default=True,
    help="Attribute set by name, or a YAML file; repeat for more.",
)
@click.option(
    "--classifier",
    "classifiers",
    multiple=True,
    default=["ViT-B-32:laion2b_s34b_b79k"],
    show_default=True,
    help="open_clip ARCHITECTURE:TAG, hf-hub:…, local-dir:…",
)
@click.option("--label-map", multiple=True, help=LABEL_MAP)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad", "resize", "crops"]),
    help="How images that are not square are fitted to the classifier; default: crops.",
)
@stoppable
@one_line_errors
def score_command(
    folder: Path,
    out: Path,
    csv: Path | None,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
    label_map: tuple[str, ...],
    fit: Any,
) -> None:
    """Score imported images; prompts from a CSV or the files."""
    from audit.pipeline import analyse
    from audit.pipeline import imported_images as folders
    from audit.pipeline.plan import begin
    from audit.pipeline.run import score, working
    from harness.spec.label_classes import parse_label_map

    mapping = parse_label_map(label_map)
    imported = folders.given_audit(folder, csv, out, attributes, classifiers, say, mapping, fit)
    audit = imported.audit
    with working(audit, say):
        begin(audit, imported.plan, imported.provenance)
        score(audit, folders.store_images(imported, say), say)
    findings, figures = analyse.analyse(audit)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    put(page)


@main.command("vae")
@click.argument("images", type=FOLDER)
@click.option(
    "--vae",
    "vaes",
    multiple=True,
    required=True,
    help="Folder, .safetensors file or reference:NAME; NAME=SOURCE names it. Repeat for more.",
)
@click.option("--csv", type=FILE, help="Columns file, label …; `mask` names a picture of skin.")
@click.option("--out", type=FOLDER, default=Path("vae-run"), show_default=True)
@click.option(
    "--longest",
    type=click.IntRange(min=8),
    default=1024,
    show_default=True,
    help="Scale larger pictures down.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Pictures a forward.",
)
@click.option("--attribute", "attributes", multiple=True, help="Also measure it before and after.")
@click.option("--classifier", "classifiers", multiple=True, help="As in `audit score`.")
@stoppable
@one_line_errors
def vae_command(
    images: Path,
    vaes: tuple[str, ...],
    csv: Path | None,
    out: Path,
    longest: int,
    batch: int,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
) -> None:
    """Send IMAGES, a folder or a run, through VAEs and back: what is lost, and whose pictures."""
    from audit.commands import vae
    from audit.pipeline import analyse

    audit = vae.run(images, csv, vaes, out, longest, batch, attributes, classifiers, say)
    findings, figures = analyse.analyse(audit)
    for line in vae.table(findings):
        put(line)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    put(page)


@main.command("attribute")
@click.argument("spec", type=FILE)
@click.argument("a")
@click.argument("b")
@click.option("--out", type=FOLDER, help="Run folder; default: SPEC's file name with -attribute.")
@stoppable
@one_line_errors
def attribute_command(spec: Path, a: str, b: str, out: Path | None) -> None:
    """Say which component of checkpoint B of SPEC carries its difference from checkpoint A.

    Text encoder, denoiser and VAE are exchanged in all eight combinations (4 denoisings and 8
    decodes for every picture).
    """
    from audit.pipeline import analyse, component_swaps

    audit = component_swaps.run(spec, a, b, out or Path(f"{spec.stem}-attribute"), say)
    found = component_swaps.findings(audit)
    for line in component_swaps.table(found):
        put(line)
    every, figures = analyse.analyse(audit, found)
    page = analyse.report(audit, every, component_swaps.figures(found) + figures)
    end(audit, every, page)
    put(page)


@main.command("show")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("cell")
@click.option("--save", type=FILE, help="Write the picture to this PNG file.")
@click.option("--again", is_flag=True, help="Make it again and compare it bit by bit.")
@one_line_errors
def show_command(run_folder: Path, cell: str, save: Path | None, again: bool) -> None:
    """Say how one picture of RUN was made; CELL is its id or the id's first letters."""
    from audit.pipeline import show

    for line in show.lines(run_folder, cell, save, again):
        put(line)


@main.command("convert")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Default: beside FILE, ending in .safetensors.")
@click.option("--key", help="Where a training checkpoint keeps the weights, such as `model`.")
@one_line_errors
def convert_command(file: Path, out: Path | None, key: str | None) -> None:
    """Write FILE's tensors (.ckpt, .pt, .pth, .bin) as safetensors; nothing in it is run."""
    from harness.models import pickle_convert

    for line in pickle_convert.lines(pickle_convert.convert(file, out, key)):
        put(line)


@main.group("baseline")
def baseline_group() -> None:
    """Keep what a gate needs of a run in one small file."""


@baseline_group.command("save")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("file", type=FILE)
@click.option("--arm", help="CHECKPOINT or CHECKPOINT,VAE, where RUN holds several.")
@one_line_errors
def baseline_save_command(run_folder: Path, file: Path, arm: str | None) -> None:
    """Write RUN's scores, digests and findings (no images) to FILE, to commit beside a model."""
    from audit.gate import baseline

    side = baseline.side_of_run(run_folder, arm)
    baseline.save(side, file)
    put(f"{file}: {side.arm}, {len(side.cells)} cells, {file.stat().st_size / 1e3:,.0f} kB")


@main.command("gate")
@click.argument("baseline_path", metavar="BASELINE", type=click.Path(path_type=Path))
@click.argument("candidate_path", metavar="CANDIDATE", type=click.Path(path_type=Path))
@click.option("--baseline-arm", help="CHECKPOINT or CHECKPOINT,VAE, where there are several.")
@click.option("--candidate-arm", help="CHECKPOINT or CHECKPOINT,VAE, where there are several.")
@click.option("--run", "folder", type=FOLDER, help="Run folder of a CANDIDATE that is a spec.")
@click.option("--out", type=FOLDER, default=Path("gate"), show_default=True)
@click.option("--allow-inconclusive", is_flag=True, help="Exit 0, not 3, where undecided.")
@stoppable
@one_line_errors
def gate_command(
    baseline_path: Path,
    candidate_path: Path,
    baseline_arm: str | None,
    candidate_arm: str | None,
    folder: Path | None,
    out: Path,
    allow_inconclusive: bool,
) -> None:
    """May CANDIDATE ship after BASELINE? Exit 0 pass, 1 regression, 2 error, 3 inconclusive.

    BASELINE is a run or a file of `audit baseline save`; CANDIDATE is a run, such a file, or a
    spec (.yaml), which is then made and measured first.
    """
    from audit.gate import baseline, verdict

    made = candidate_path
    try:
        before = baseline.read_side(baseline_path, baseline_arm)
        if candidate_path.suffix in (".yaml", ".yml"):
            made = folder or Path(f"{candidate_path.stem}-run")
            after = verdict.make_candidate(candidate_path, made, before, candidate_arm, say)
        else:
            after = baseline.read_side(candidate_path, candidate_arm)
        record = verdict.decide(before, after)
        code = verdict.exit_code(record, allow_inconclusive)
    except (AuditError, OSError) as error:
        record = verdict.error(reason(error, 2000))
        code = verdict.exit_code(record)
    except Exception as error:  # Python's own exit code 1 would be read as a regression
        say_bug(error)
        record = verdict.error(f"a bug of diffusion-audit: {reason(error)}")
        code = BUG
    verdict.write(record, out, baseline_path, made)
    for line in verdict.lines(record):
        put(line)
    sys.exit(code)


@main.command("schema")
@one_line_errors
def schema_command() -> None:
    """Print the spec's JSON schema, for editors."""
    from harness.spec.schema import spec_schema

    click.echo(json.dumps(spec_schema(), indent=2))


@main.command("doctor")
@one_line_errors
def doctor_command() -> None:
    """Say what this machine has: libraries, device, memory, disk, reference models."""
    from audit.commands import doctor

    healthy = True
    for ok, text in doctor.checks():
        healthy &= ok
        put(f"{'ok ' if ok else 'BAD'} {text}")
    sys.exit(0 if healthy else 1)


@main.command("demo")
@click.option("--out", type=FOLDER, default=Path("demo-run"), show_default=True)
@stoppable
@one_line_errors
def demo_command(out: Path) -> None:
    """Audit two reference models, one with a planted bias, and write the report."""
    import reference
    from audit.pipeline.session import open_audit

    put(work(open_audit(reference.MODELS.parent / "demo.yaml", out)))


@main.command("validate")
@click.option(
    "--quick", is_flag=True, help="Fewer seeds; without attribution, the gate and the inside."
)
@click.option("--out", type=FOLDER, default=Path("validate-run"), show_default=True)
@stoppable
@one_line_errors
def validate_command(quick: bool, out: Path) -> None:
    """Check the instruments on models whose bias is known; exit 1 where one fails its bar."""
    from itertools import chain

    from validation import attribution, gate, internals, shares, vae

    # Specs in the folder name other folders in it, and take relative paths from their own place.
    out, passed = out.resolve(), True
    parts = [shares.run(out, quick, say), vae.run(out / "vae", quick, say)]
    if not quick:
        parts.append(attribution.run(out / "attribution", say))
        parts.append(gate.run(out / "gate", say))
        parts.append(internals.run(out / "inside", say))
    for check in chain(*parts):
        passed &= check.passed
        put(check.line())
    sys.exit(0 if passed else 1)


main.add_command(labels_group)
main.add_command(report_command)

if __name__ == "__main__":
    main()
