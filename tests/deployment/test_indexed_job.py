"""The job of docs/slices.md that scores in slices on Kubernetes."""

from pathlib import Path

import yaml

from tests.support.kubernetes import validate
from tests.support.shell_examples import code_of

PAGE = Path(__file__).parents[2] / "docs/slices.md"


def test_job_follows_the_schema_and_is_restricted() -> None:
    (code,) = code_of(PAGE, "yaml")
    job = yaml.safe_load(code)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    validate(job)
    assert job["spec"]["completionMode"] == "Indexed"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
