"""Training in bfloat16 on processors that have it."""

from pathlib import Path

import pytest
import tensorflow as tf

from tests.support import pictures
from train import tensorflow
from train.config import recipe
from train.fit.fitting import fit
from train.tensorflow import bfloat16_convolutions, has_bfloat16

OPTION = "auto_mixed_precision_onednn_bfloat16"
WITH_UNITS = "flags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n"
WITH_INSTRUCTIONS = "flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n"
WITHOUT = "flags\t\t: fpu avx512f avx512_vnni\n"


def is_on() -> bool:
    return bool(tf.config.optimizer.get_experimental_options().get(OPTION))


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(tensorflow, "CPU_FLAGS", path)
    return path


@pytest.mark.parametrize(
    ("text", "wanted", "on"),
    [
        (WITH_UNITS, True, True),
        (WITH_INSTRUCTIONS, True, True),
        (WITH_UNITS, False, False),
        (WITHOUT, True, False),
    ],
)
def test_bfloat16_is_used_if_it_is_enabled_and_the_processor_has_bfloat16(
    text: str, wanted: bool, on: bool, flags: Path
) -> None:
    flags.write_text(text)

    with bfloat16_convolutions(wanted):
        assert is_on() is on
    assert not is_on()


def test_bfloat16_is_off_again_after_a_failed_training(flags: Path) -> None:
    flags.write_text(WITH_UNITS)

    with pytest.raises(RuntimeError), bfloat16_convolutions(True):
        raise RuntimeError
    assert not is_on()


def test_without_a_list_of_features_there_is_no_bfloat16(flags: Path) -> None:
    assert not has_bfloat16()


def test_a_network_learns_in_bfloat16() -> None:
    losses = [
        fit(pictures.shapes(), recipe("cnn-small", epochs=8, batch_size=8, bfloat16=wanted))
        .history[-1]
        .loss
        for wanted in (False, True)
    ]

    assert losses[1] == pytest.approx(losses[0], abs=0.1)
    assert losses[1] < 0.5
