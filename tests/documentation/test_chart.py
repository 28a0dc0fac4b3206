"""The documented commands of Helm, without a cluster: it renders what they would install."""

import shutil
import subprocess

import pytest
import yaml

from tests.documentation.places import CHART, ROOT, commands_at
from tests.support.shell_examples import Command

# `template` renders without the values of an earlier release.
ON_A_CLUSTER = {"install": "template", "upgrade": "template", "--reuse-values": ""}


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
@pytest.mark.parametrize("command", commands_at(CHART), ids=lambda each: each.text)
def test_helm_renders_what_it_would_install(command: Command) -> None:
    words = [ON_A_CLUSTER.get(word, word) for word in command.words]
    made = subprocess.run([*filter(None, words)], cwd=ROOT, capture_output=True, text=True)

    assert made.returncode == 0, made.stderr
    assert {each["kind"] for each in yaml.safe_load_all(made.stdout) if each} >= {"Deployment"}
