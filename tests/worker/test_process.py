"""What a worker does as a process of its own."""

import subprocess
import sys
from importlib.util import find_spec

WRITES_A_TABLE = """
import sys
from worker.process import WithoutPandas

sys.meta_path.insert(0, WithoutPandas())
import pyarrow

print(pyarrow.table({"x": [1]}).num_rows, "pandas" in sys.modules)
"""


def test_a_worker_writes_tables_without_importing_pandas() -> None:
    assert find_spec("pandas") is not None
    ended = subprocess.run(
        [sys.executable, "-c", WRITES_A_TABLE], capture_output=True, text=True, check=True
    )

    assert ended.stdout == "1 False\n"
