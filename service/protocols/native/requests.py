"""Images in the bodies of `/predict` and `/predict_batch`."""

from functools import partial

from pydantic import BaseModel, ConfigDict, JsonValue, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from loupe.errors import InvalidRequest, UnsupportedMediaType
from loupe.images.arrays.npy import NPY_MAGIC
from loupe.images.looks.ink import Symbols
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.settings import Settings
from service.http.options import media_type
from service.http.validation import parse_json, shown, validate
from service.prediction.decoding import (
    DecodedImages,
    EncodedImage,
    Preparation,
    check_count,
    decode,
    decode_all,
    decode_symbols,
)
from service.prediction.encodings import from_base64, from_pixels, parse_npy
from service.protocols.native.forms import FormField, read_form

ONE_IMAGE = (
    "Send an image body (Content-Type: image/png …), multipart/form-data with a field 'image', "
    'or JSON {"image": "<base64>"} or {"pixels": [[…], …]}.'
)
MANY_IMAGES = (
    'Send multipart/form-data with fields \'images\', JSON {"images": ["<base64>", …]}, '
    "or an .npy body of uint8 pixels."
)


class JsonImage(BaseModel):
    """One image in JSON: `image` as base64, or `pixels` as nested lists."""

    model_config = ConfigDict(extra="forbid")

    image: SkipValidation[JsonValue] = None
    pixels: SkipValidation[JsonValue] = None

    @model_validator(mode="after")
    def _has_one(self) -> "JsonImage":
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("one_image", "Input should have either 'image' or 'pixels'")
        return self

    def encoded(self, spec: ImageSpec) -> EncodedImage:
        """Return the file or the pixels."""
        is_file = "image" in self.model_fields_set
        return from_base64(self.image) if is_file else from_pixels(self.pixels, spec)


class JsonImages(BaseModel):
    """Many images in JSON, each as base64 or as a `JsonImage`."""

    model_config = ConfigDict(extra="forbid")

    images: list[SkipValidation[JsonValue]]


async def read_image(
    body: bytes, content_type: str | None, settings: Settings, preparation: Preparation
) -> UInt8Array:
    """Return the image of a `/predict` request, uint8 of the model's shape."""
    image = await _read_picture(body, content_type, settings, preparation.spec)
    del body  # only the image is needed until a decoder is free
    return await decode(image, settings, preparation)


async def read_symbols(
    body: bytes, content_type: str | None, settings: Settings, preparation: Preparation
) -> Symbols:
    """Return the images and boxes of the symbols in the picture of a `/predict` request."""
    image = await _read_picture(body, content_type, settings, preparation.spec)
    del body  # only the image is needed until a decoder is free
    return await decode_symbols(image, settings, preparation)


async def _read_picture(
    body: bytes, content_type: str | None, settings: Settings, spec: ImageSpec
) -> EncodedImage:
    """Return the encoded picture of a `/predict` request."""
    sent_as = media_type(content_type)
    image: EncodedImage
    if sent_as.startswith("image/") or sent_as == "application/octet-stream":
        image = body
    elif sent_as == "application/json":
        image = validate(JsonImage, await parse_json(body, settings)).encoded(spec)
    elif sent_as == "multipart/form-data":
        files = await _read_form(content_type, body, "image", ONE_IMAGE, settings)
        if len(files) > 1:
            raise InvalidRequest(
                f"The form has {len(files)} fields 'image'. Send many images to /predict_batch."
            )
        image = files[0].file()
        del files
    else:
        raise UnsupportedMediaType(f"Content-Type {shown(sent_as)} is not supported. {ONE_IMAGE}")
    return image


async def read_batch(
    body: bytes, content_type: str | None, settings: Settings, preparation: Preparation
) -> DecodedImages:
    """Return the images of a `/predict_batch` request; an image that fails does not fail others."""
    sent_as = media_type(content_type)
    if body.startswith(NPY_MAGIC):
        images = parse_npy(body, preparation.spec)
        if preparation.split:
            return await decode_all(list(images), _unchanged, settings, preparation)
        check_count(len(images), settings, preparation.spec)
        return DecodedImages(images, {})
    if sent_as == "application/json":
        values = validate(JsonImages, await parse_json(body, settings)).images
        read = partial(read_element, spec=preparation.spec)
        decoding = decode_all(values, read, settings, preparation)
        del body, values  # only the images are needed until a decoder is free
        return await decoding
    if sent_as == "multipart/form-data":
        files = await _read_form(content_type, body, "images", MANY_IMAGES, settings)
        return await decode_all(files, FormField.file, settings, preparation)
    raise UnsupportedMediaType(
        f"Content-Type {shown(sent_as)} with a body that is not .npy is not supported. "
        f"{MANY_IMAGES}"
    )


def read_element(value: JsonValue, spec: ImageSpec) -> EncodedImage:
    """Return the image in one element of a JSON batch."""
    if isinstance(value, dict):
        return validate(JsonImage, value).encoded(spec)
    return from_base64(value)


def _unchanged(image: UInt8Array) -> UInt8Array:
    return image


async def _read_form(
    content_type: str | None, body: bytes, field: str, expected: str, settings: Settings
) -> list[FormField]:
    """Return the values of one field of a form."""
    values = await read_form(content_type or "", body, field, settings.max_images)
    if not values:
        raise InvalidRequest(f"The form has no field '{field}'. {expected}")
    return values
