"""Schemathesis over the server's own document: right and wrong bodies, and no answer that is the server's fault, of a status
that the document does not tell of, or in another form than it tells."""

import subprocess
import sys
from pathlib import Path

import pytest
from server import Server
from table_model import TableModel

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed (requirements-dev.txt)")
def test_no_body_is_the_servers_fault(tmp_path):
    model = TableModel()
    model.say(["nothing"])
    server = Server("-t", "1", "--max-tokens", "4", "--max-choices", "3", model=str(model.write(tmp_path / "t.gguf", TEMPLATE)))
    try:
        done = subprocess.run(
            [SCHEMATHESIS, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", CHECKS, "--max-examples", "60",
             "--phases", "examples,coverage,fuzzing", "--exclude-path", "/tutti/events", "--seed", "1", "--generation-deterministic",
             "--request-timeout", "60", "--no-color", "--suppress-health-check", "all", "--continue-on-failure"],
            capture_output=True, text=True, cwd=tmp_path, timeout=170)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        metrics = server.metrics()
        # Some of the bodies were right.
        assert metrics[("tutti:request_success_total", "length")] + metrics[("tutti:request_success_total", "stop")] >= 5
        assert metrics[("tutti:num_requests_running", "")] == 0
    finally:
        assert server.stop() == 0
