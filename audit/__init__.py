"""The command line and what it drives: a session, its plan, the run, the analysis, the gate."""
