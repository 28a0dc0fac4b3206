"""What a user asks of a data set's images: look, size, colours, and how photos are cut."""

import re
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from loupe.errors import InvalidUsage
from loupe.images.spec import Fit, ImageSpec, Look

DEFAULT_SIDE = 28  # pixels, as in MNIST and Fashion-MNIST
DEFAULT_LOOK: Look = "object"  # users have more photos of objects than drawings


def _sides(value: object) -> object:
    """Read `64`, or height and width as `48x64`."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch("[0-9]{1,9}(x[0-9]{1,9})?", value):
        raise PydanticCustomError("size", "Input should be a side such as 64, or HEIGHTxWIDTH")
    sides = tuple(map(int, value.split("x")))
    return sides if len(sides) == 2 else sides[0]


class ImageOptions(BaseModel):
    """The images that a user wants; what is not given follows from the data.

    Attributes:
        look: By default `photo` for images in colour, else `object`.
        size: Side, or height and width, in pixels; also as text, `64` or `48x64`. By default 28; of
            arrays of photos, their own.
        colour: Keep the colours of pictures. Arrays in colour keep theirs.
        fit: How photos get their size; `crop` by default.
    """

    model_config = ConfigDict(frozen=True)

    look: Look | None = None
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_sides)] = None
    colour: bool = False
    fit: Fit | None = None

    @classmethod
    def of(cls, **given: object) -> Self:
        """Return these options, or raise `InvalidUsage` if one is impossible."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problem = error.errors()[0]
        raise _refused(f"{problem['loc'][0]}: {problem['msg']}, got {problem['input']!r}.")

    @classmethod
    def of_model(cls, spec: ImageSpec) -> "ImageOptions":
        """Return the options that make images for a model out of pictures."""
        fit = spec.fit if spec.look == "photo" else None
        size = (spec.height, spec.width)
        return cls(look=spec.look, size=size, colour=spec.channels == 3, fit=fit)

    @property
    def _size(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def spec(self, shape: tuple[int, ...] | None = None) -> ImageSpec:
        """Return the spec of a user's own images.

        Args:
            shape: Shape of one image, for arrays; pictures differ.

        Raises:
            InvalidUsage: If the options exclude each other, or do not fit the arrays.
        """
        if self.colour and shape and len(shape) == 2:
            raise _refused(f"The images are grey, of the shape {shape}: leave out --colour.")
        in_colour = self.colour or (
            shape is not None and len(shape) == 3 and self.look in (None, "photo")
        )
        look = self.look or ("photo" if in_colour else DEFAULT_LOOK)
        if self.fit and look != "photo":
            raise _refused("--fit is for photos: add --look photo or --colour.")
        own = shape[:2] if shape and look == "photo" else (DEFAULT_SIDE, DEFAULT_SIDE)
        height, width = self._size or own
        try:
            return ImageSpec(look, height, width, 3 if in_colour else 1, self.fit or "crop")
        except ValueError as error:
            raise _refused(
                f"{str(error).capitalize()}. Options: --look, --size, --colour."
            ) from error

    def check(self, name: str, look: Look, shape: tuple[int, ...]) -> None:
        """Raise `InvalidUsage` if a published data set does not have such images.

        `shape` is that of one of its images.
        """
        if self.look not in (None, look):
            raise _refused(f"The images of '{name}' have the look '{look}', not '{self.look}'.")
        if self._size not in (None, shape[:2]):
            raise _refused(f"The images of '{name}' have {shape[0]} × {shape[1]} pixels.")
        if self.colour and len(shape) == 2:
            raise _refused(f"The images of '{name}' are grey.")
        if self.fit:
            raise _refused(f"The images of '{name}' have their size already: leave out --fit.")


def _refused(message: str) -> InvalidUsage:
    return InvalidUsage(message, code="invalid_dataset_option")
