"""From a spec to findings: session, plan, generate, score, analyse."""
