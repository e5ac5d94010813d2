import io

import pyarrow.parquet as pq
from click.testing import CliRunner
from PIL import Image

from audit.commands.main import main
from dashboard.command import OPTIONS


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_what_cannot_be_shown_is_one_line(tmp_path, made):
    for arguments, words in (
        ((tmp_path,), "plan.parquet is missing"),
        ((tmp_path / "gone",), "no such folder"),
        ((made, "--gate", tmp_path / "gate.json"), "no such file"),
    ):
        result = invoke("dashboard", *arguments)
        assert result.exit_code == 2
        assert words in result.output
        assert len(result.output.strip().splitlines()) == 1


def test_the_server_is_local_and_silent():
    assert OPTIONS["server.address"] == "127.0.0.1"
    assert OPTIONS["browser.gatherUsageStats"] is False
    assert OPTIONS["server.enableStaticServing"] is False


def test_export_is_one_table_with_scores_places_and_thumbnails(made, tmp_path):
    file = tmp_path / "out.parquet"
    result = invoke("export", made, file, "--side", 24)
    assert result.exit_code == 0, result.output
    table = pq.read_table(file)
    assert table.num_rows == 24
    names = set(table.column_names)
    assert {"cell", "prompt", "seed", "x", "y", "image"} <= names
    assert {"small.look-0/outcome", "small.look-0/class:round", "fidelity/mse"} <= names
    frame = table.to_pandas()
    assert frame["x"].notna().all()
    assert frame["cell"].is_unique
    first = frame["image"][0]
    assert max(Image.open(io.BytesIO(first["bytes"])).size) == 24
    scores = pq.read_table(sorted((made / "scores/fidelity@0").glob("*/*"))[0]).to_pandas()
    own = frame.set_index("cell").loc[scores["cell"][0], "fidelity/mse"]
    assert own == scores["mse"][0]


def test_export_names_what_is_wrong(made, tmp_path):
    assert "must end in .parquet" in invoke("export", made, tmp_path / "x.csv").output
    assert invoke("export", tmp_path, tmp_path / "x.parquet").exit_code == 2
    result = invoke("export", made, tmp_path / "y.parquet", "--no-images")
    assert result.exit_code == 0
    assert "image" not in pq.read_schema(tmp_path / "y.parquet").names
