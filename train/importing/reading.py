"""Find out how a given model takes images: from its signature, what the user says, and probes."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidModel, InvalidUsage
from loupe.images.spec import MAX_SIDE, MIN_SIDE, Fit, ImageSpec, Look, UInt8Array
from train.importing.formats.given import GivenModel, OutputHint, Signature
from train.importing.wiring import DTYPES, LAYOUTS, Inputs, Layout, Output, Outputs, Wiring

RANGES = {"0..1": (0.0, 255.0), "-1..1": (127.5, 127.5), "0..255": (0.0, 1.0)}  # mean and std
CHANNELS = (1, 3)
MAX_LISTED = 4  # names in an error
PROBES = 5  # images
SUM_TOLERANCE = 1e-3  # of probabilities from 1; float16 is that exact
CHOICES = (
    f"Say --input '[DTYPE] LAYOUT RANGE [SIZE]' with the dtype {', '.join(DTYPES)}; the layout "
    f"{', '.join(LAYOUTS)}; the range {', '.join(RANGES)}, or mean=M[,M,M] std=S[,S,S] of pixels "
    "from 0 to 1; and the size as 64x64 or 64x64x3"
)


@dataclass(frozen=True)
class StatedInput:
    """The values of `--input`; `None` for those that it leaves out.

    Attributes:
        dtype: NumPy's name.
        layout: Order of the axes.
        mean: In pixels from 0 to 255, as `Wiring.mean`.
        std: As `mean`.
        size: Height, width and possibly channels.
    """

    dtype: str | None = None
    layout: Layout | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None


def parse_input(text: str) -> StatedInput:
    """Parse `--input`, such as `float32 NCHW 0..1`.

    Raises:
        InvalidUsage: If a word is unknown.
    """
    stated = StatedInput()
    for word in text.replace("−", "-").split():
        name, equals, numbers = word.partition("=")
        layout = next((each for each in LAYOUTS if each.lower() == word.lower()), None)
        if word in DTYPES:
            stated = replace(stated, dtype=word)
        elif layout:
            stated = replace(stated, layout=layout)
        elif word in RANGES:
            mean, std = RANGES[word]
            stated = replace(stated, mean=(mean,), std=(std,))
        elif equals and name in ("mean", "std"):
            pixels = tuple(255 * each for each in _floats(word, numbers))
            stated = replace(stated, mean=pixels) if name == "mean" else replace(stated, std=pixels)
        elif "x" in word and all(side.isascii() and side.isdigit() for side in word.split("x")):
            stated = replace(stated, size=tuple(map(int, word.split("x"))))
        else:
            raise _unclear(f"--input does not understand {word!r}.")
    if (stated.mean is None) != (stated.std is None):
        raise _unclear("--input has only one of mean=… and std=….")
    if stated.std and not all(each > 0 for each in stated.std):
        raise _unclear("--input has a std that is not above 0.")
    return stated


def read_wiring(
    model: GivenModel, stated: StatedInput, look: Look | None, fit: Fit | None
) -> Wiring:
    """Return how a model takes images; its `output` is not known yet.

    Raises:
        InvalidModel: If it does not take images that Loupe knows.
        InvalidUsage: If the user has to say more, or says what the model does not take.
    """
    signature = model.signature
    _check_signature(signature)
    if stated.dtype not in (None, signature.dtype):
        raise _unclear(f"The model takes {signature.dtype}, not {stated.dtype}.")
    layout = _layout(signature, stated)
    spec = _spec(_size(signature, layout, stated), look, fit)
    mean, std = _range(model, signature, stated)
    for values in (mean, std):
        if len(values) not in (1, spec.channels):
            raise _unclear(f"--input has {len(values)} values for {spec.channels} channels.")
    wiring = Wiring(spec, signature.dtype, layout, mean, std)
    expected = (signature.shape[0], *wiring.shape)
    if len(expected) != len(signature.shape) or any(
        known not in (None, side) for known, side in zip(signature.shape, expected, strict=True)
    ):
        raise _unclear(f"The model takes {_shown(signature)}, not images of {spec} in {layout}.")
    return wiring


def probes(spec: ImageSpec) -> UInt8Array:
    """Return images to try a model on: black, white, and noise of several contrasts."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (PROBES, *spec.shape))
    images[0], images[1], images[2] = 0, 255, images[2] // 8
    return images.astype(np.uint8)


def read_output(model: GivenModel, inputs: Inputs, stated: Output | None) -> tuple[Output, int]:
    """Return what a model's outputs are, and how many it has for an image.

    Raises:
        InvalidModel: If they are not those of a classifier.
        InvalidUsage: If the user has to say more.
    """
    outputs = model.run(inputs)
    _check_outputs(outputs, len(inputs))
    units = math.prod(outputs.shape[1:])
    values = outputs.reshape(len(outputs), units).astype(np.float64)
    found = _recognise(values, model.output_hint, stated)
    if found and stated not in (None, found):
        raise InvalidUsage(f"The outputs are {found}, not {stated}.", code="output_unclear")
    if found is None and stated is None:
        raise InvalidUsage(
            "The outputs can be logits or probabilities. Say --output logits or --output "
            "probabilities.",
            code="output_unclear",
        )
    return found or stated or "logits", units


def _check_outputs(outputs: Outputs, count: int) -> None:
    """Raise `InvalidModel` unless outputs are one finite number per image and class."""
    shape = outputs.shape
    if (
        outputs.dtype.kind != "f"
        or shape[:1] != (count,)
        or math.prod(shape[1:]) != max(shape[1:], default=0)
    ):
        raise InvalidModel(
            f"The model returns {outputs.dtype} of the shape {shape} for {count} images; a "
            "classifier returns one float per image and class.",
            code="not_a_classifier",
        )
    if not np.isfinite(outputs).all():
        raise InvalidModel(
            "The model returns NaN or infinity. Check the range in --input.", code="invalid_logits"
        )


def _recognise(
    values: NDArray[np.float64], hint: OutputHint | None, stated: Output | None
) -> Output | None:
    """Return what outputs `(n, units)` certainly are, or `None`."""
    inside = bool((values >= 0).all() and (values <= 1).all())
    if values.shape[1] == 1:
        return "probabilities" if hint == "sigmoid" else None if inside else "logits"
    if inside and np.abs(values.sum(axis=1) - 1).max() < SUM_TOLERANCE:
        return "probabilities"
    if stated == "probabilities" or (hint == "sigmoid" and stated is None):
        raise InvalidModel(
            "The outputs do not sum to 1: each class has a probability of its own, as after a "
            "sigmoid, or these are no probabilities. Loupe needs one softmax over all classes.",
            code="not_a_classifier",
        )
    return "logits" if not inside or hint == "logits" else None


def _check_signature(signature: Signature) -> None:
    for kind, names in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if len(names) != 1:
            raise InvalidModel(
                f"The model has {len(names)} {kind}: {', '.join(names[:MAX_LISTED])}. "
                "Loupe needs one input, the image, and one output, the classes.",
                code="not_an_image_model",
            )
    if signature.dtype not in DTYPES:
        raise InvalidModel(
            f"The model takes {_shown(signature)}: no pixels. Loupe knows {', '.join(DTYPES)}.",
            code="not_an_image_model",
        )
    if len(signature.shape) not in (2, 3, 4):
        raise InvalidModel(
            f"The model takes {_shown(signature)}: no images.", code="not_an_image_model"
        )


def _layout(signature: Signature, stated: StatedInput) -> Layout:
    if stated.layout:
        return stated.layout
    match signature.shape:
        case (_, _, _):
            return "NHW"
        case (_, first, _, last):
            fitting = [first in CHANNELS, last in CHANNELS]
            if fitting == [True, False]:
                return "NCHW"
            if fitting == [False, True]:
                return "NHWC"
            sides = [side for side in (first, last) if side is not None]
            if len(sides) == 2 and fitting == [False, False]:
                raise InvalidModel(
                    f"The model takes {_shown(signature)}: images of {min(sides)} channels. Loupe "
                    "knows grey (1) and red, green and blue (3).",
                    code="not_an_image_model",
                )
        case (_, pixels) if pixels is not None and stated.size is None:
            if math.isqrt(pixels) ** 2 == pixels:
                return "flat"
        case _:
            pass
    raise _unclear(f"The model takes {_shown(signature)}: the order of its axes is not clear.")


def _size(signature: Signature, layout: Layout, stated: StatedInput) -> tuple[int, int, int]:
    """Return height, width and channels."""
    if stated.size:
        if len(stated.size) not in (2, 3):
            raise _unclear("--input has a size that is not HEIGHTxWIDTH or HEIGHTxWIDTHxCHANNELS.")
        height, width, stated_channels = (*stated.size, 0)[:3]
        return height, width, stated_channels or _channels(signature, layout) or 1
    axes: dict[Layout, tuple[int, int]] = {"NCHW": (2, 3), "NHWC": (1, 2), "NHW": (1, 2)}
    if layout in axes:
        if len(signature.shape) <= max(axes[layout]):
            raise _unclear(f"The model takes {_shown(signature)}, not {layout}.")
        sides = [signature.shape[axis] for axis in axes[layout]]
        channels = _channels(signature, layout)
        if None not in sides and channels is not None:
            return int(sides[0] or 0), int(sides[1] or 0), channels
    elif len(signature.shape) == 2 and (pixels := signature.shape[1]):
        for colours in CHANNELS:
            side = math.isqrt(pixels // colours)
            if side * side * colours == pixels:
                return side, side, colours
    raise _unclear(f"The model takes {_shown(signature)}: the size of its images is not fixed.")


def _channels(signature: Signature, layout: Layout) -> int | None:
    if layout == "NHW":
        return 1
    axis = {"NCHW": 1, "NHWC": 3}.get(layout)
    return signature.shape[axis] if axis and len(signature.shape) > axis else None


def _spec(size: tuple[int, int, int], look: Look | None, fit: Fit | None) -> ImageSpec:
    height, width, channels = size
    if channels not in CHANNELS:
        raise InvalidModel(
            f"The model takes images of {channels} channels. Loupe knows grey (1) and red, green "
            "and blue (3).",
            code="not_an_image_model",
        )
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        raise InvalidModel(
            f"The model takes images of {height} × {width} pixels. Loupe's have sides of "
            f"{MIN_SIDE} to {MAX_SIDE} pixels.",
            code="not_an_image_model",
        )
    if look is None and channels == 1:
        raise InvalidUsage(
            "The model takes grey images. Say how they look: --look ink for strokes as in MNIST, "
            "--look object for things on a plain ground as in Fashion-MNIST, or --look photo.",
            code="look_needed",
        )
    look = look or "photo"
    if fit is not None and look != "photo":
        raise InvalidUsage("--fit is for --look photo.", code="invalid_usage")
    try:
        return ImageSpec(look, height, width, 3 if channels == 3 else 1, fit or "crop")
    except ValueError as error:
        raise InvalidUsage(f"The model takes colour, but {error}.", code="look_needed") from error


def _range(
    model: GivenModel, signature: Signature, stated: StatedInput
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    bytes_ = (0.0,), (1.0,)
    if signature.dtype == "uint8":
        if (stated.mean or (0.0,), stated.std or (1.0,)) != bytes_:
            raise _unclear("The model takes uint8, so its range is 0..255.")
        return bytes_
    if stated.mean and stated.std:
        return stated.mean, stated.std
    if model.takes_bytes:
        return bytes_
    raise _unclear(f"The model takes {_shown(signature)}: the range of its pixels is not clear.")


def _floats(word: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) not in CHANNELS or not all(map(math.isfinite, values)):
        raise _unclear(f"--input does not understand {word!r}.")
    return values


def _shown(signature: Signature) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in signature.shape)
    return f"{signature.dtype} ({sides})"


def _unclear(problem: str) -> InvalidUsage:
    return InvalidUsage(f"{problem} {CHOICES}.", code="input_unclear")
