"""diffusion-audit from Python: run an audit, open a run, measure images of your own.

    import diffusion_audit as da

    run = da.audit("audit.yaml", "audit-run")     # as `audit run`; later: da.open_run("audit-run")
    run.findings()                                # a DataFrame, one column a subject key

docs/python.md has all of it. The command line and these functions share one way through the code.
"""

from __future__ import annotations

from diffusion_audit.measuring import audit, instruments, measure, round_trip
from diffusion_audit.runs import Run, RunFigure, open_run
from harness import __version__
from harness.errors import AuditError
from probes.contracts import Batch, Figure, Finding
from probes.registry import register

__all__ = [
    "AuditError",
    "Batch",
    "Figure",
    "Finding",
    "Run",
    "RunFigure",
    "__version__",
    "audit",
    "instruments",
    "measure",
    "open_run",
    "register",
    "round_trip",
]
