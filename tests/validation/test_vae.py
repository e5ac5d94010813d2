from validation.vae import run


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    checks = list(run(tmp_path, True, lambda text: None))
    assert len(checks) == 11
    assert not [check.line() for check in checks if not check.passed]
