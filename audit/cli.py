"""The command `audit`. Heavy imports are inside the commands: `audit --help` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from audit import __version__

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def one_line_errors(command: F) -> F:
    """Turn errors in what the user gave into one line and exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except ValueError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror or error}", err=True)
            sys.exit(2)

    return wrapped  # type: ignore[return-value]


def say(text: str) -> None:
    """One line to stderr, where progress and warnings go."""
    click.echo(text, err=True)


@click.group()
@click.version_option(__version__, prog_name="audit")
def main() -> None:
    """Audit text-to-image models: which bias, how sure, and which part carries it."""


@main.command("run")
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder; default: the spec's name with -run.")
@one_line_errors
def run_command(spec: Path, out: Path | None) -> None:
    """Make what SPEC asks for, measure it, and write the report. Run again to resume."""
    from audit.run import open_audit

    folder = out or Path(f"{spec.stem}-run")
    click.echo(work(open_audit(spec, folder)))


def work(audit: Any) -> Path:
    """Plan, generate, score, analyse and report one audit; returns the report's path."""
    from audit import analysis, run

    plan, provenance = run.plan_audit(audit, say)
    run.begin(audit, plan, provenance)
    try:
        run.generate(audit, plan, say)
        run.score(audit, plan, say)
    except run.Stopped:
        say(f"stopped; what was made is in {audit.run.folder}: run the same command to go on")
        sys.exit(130)
    page = analysis.report(audit, *analysis.analyse(audit))
    failed = audit.run.failures()
    if failed:
        say(f"{len(failed)} units failed, for example: {next(iter(failed.values()))}")
        click.echo(page)
        sys.exit(1)
    return page


@main.command("plan")
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder, to count what is there already.")
@one_line_errors
def plan_command(spec: Path, out: Path | None) -> None:
    """Say what SPEC will cost, from a timed warm-up, and what it can show. Writes nothing."""
    from audit import estimate
    from audit.run import open_audit, plan_audit

    audit = open_audit(spec, out or Path(f"{spec.stem}-run"))
    plan, _ = plan_audit(audit, say)
    for line in estimate.lines(audit, plan):
        click.echo(line)


@main.command("score")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Run folder.")
@click.option("--csv", type=FILE, help="Columns file, prompt; more columns are labels.")
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
@one_line_errors
def score_command(
    folder: Path,
    out: Path,
    csv: Path | None,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
) -> None:
    """Measure images made elsewhere; prompts come from a CSV or from the PNGs themselves."""
    from audit import analysis, run
    from audit import folder as folders

    audit, plan, provenance = folders.given_audit(folder, csv, out, attributes, classifiers, say)
    run.begin(audit, plan, provenance)
    folders.store_images(audit, plan, folder, csv)
    run.score(audit, plan, say)
    click.echo(analysis.report(audit, *analysis.analyse(audit)))


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
@click.option("--longest", default=1024, show_default=True, help="Scale larger pictures down.")
@click.option("--batch", default=4, show_default=True, help="Pictures a forward.")
@click.option("--attribute", "attributes", multiple=True, help="Also measure it before and after.")
@click.option("--classifier", "classifiers", multiple=True, help="As in `audit score`.")
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
    from audit import analysis, trial

    audit = trial.run(images, csv, vaes, out, longest, batch, attributes, classifiers, say)
    findings, exhibits = analysis.analyse(audit)
    for line in trial.table(findings):
        click.echo(line)
    click.echo(analysis.report(audit, findings, exhibits))


@main.command("report")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option(
    "--grid", "grids", multiple=True, help="ROW,COLUMN: any two factors; repeat for more."
)
@one_line_errors
def report_command(run_folder: Path, grids: tuple[str, ...]) -> None:
    """Write RUN's report again, with the labels and grids there are now."""
    from audit import analysis
    from audit.run import reopen

    audit = reopen(run_folder)
    click.echo(analysis.report(audit, *analysis.analyse(audit), grids))


@main.command("show")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("cell")
@click.option("--save", type=FILE, help="Write the picture to this PNG file.")
@click.option("--again", is_flag=True, help="Make it again and compare it bit by bit.")
@one_line_errors
def show_command(run_folder: Path, cell: str, save: Path | None, again: bool) -> None:
    """Say how one picture of RUN was made; CELL is its id or the id's first letters."""
    from audit import show

    for line in show.lines(run_folder, cell, save, again):
        click.echo(line)


@main.command("convert")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Default: beside FILE, ending in .safetensors.")
@one_line_errors
def convert_command(file: Path, out: Path | None) -> None:
    """Write FILE's tensors (.ckpt, .pt, .pth, .bin) as safetensors; nothing in it is run."""
    from audit import convert

    for line in convert.lines(convert.convert(file, out)):
        click.echo(line)


@main.command("schema")
def schema_command() -> None:
    """Print the spec's JSON schema, for editors."""
    from audit.spec import spec_schema

    click.echo(json.dumps(spec_schema(), indent=2))


@main.command("doctor")
def doctor_command() -> None:
    """Say what this machine has: libraries, device, memory, disk, reference models."""
    from audit import doctor

    healthy = True
    for ok, text in doctor.checks():
        healthy &= ok
        click.echo(f"{'ok ' if ok else 'BAD'} {text}")
    sys.exit(0 if healthy else 1)


@main.command("demo")
@click.option("--out", type=FOLDER, default=Path("demo-run"), show_default=True)
@one_line_errors
def demo_command(out: Path) -> None:
    """Audit two reference models, one with a planted bias, and write the report."""
    import reference
    from audit.run import open_audit

    click.echo(work(open_audit(reference.MODELS.parent / "demo.yaml", out)))


@main.command("validate")
@click.option("--quick", is_flag=True, help="Fewer seed sets.")
@click.option("--out", type=FOLDER, default=Path("validate-run"), show_default=True)
@one_line_errors
def validate_command(quick: bool, out: Path) -> None:
    """Check the instruments on models whose bias is known; exit 1 where one fails its bar."""
    from itertools import chain

    from reference import vae_validation, validation

    passed = True
    checks = chain(validation.run(out, quick, say), vae_validation.run(out / "vae", quick, say))
    for check in checks:
        passed &= check.passed
        click.echo(check.line())
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
