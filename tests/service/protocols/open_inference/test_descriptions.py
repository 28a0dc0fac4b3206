"""Descriptions of models in the Open Inference Protocol."""

import json
from typing import get_args

from loupe.settings import EngineName
from service.protocols.open_inference.descriptions import BACKENDS, PLATFORMS
from service.web.document import document


def test_every_engine_has_a_platform_and_a_backend() -> None:
    assert list(PLATFORMS) == list(BACKENDS) == list(get_args(EngineName))


def test_openapi_document_knows_every_platform_and_backend() -> None:
    schemas = json.loads(document())["components"]["schemas"]

    for name in ("ModelMetadata", "ModelConfiguration"):
        assert schemas[name]["properties"]["platform"]["enum"] == list(PLATFORMS.values())
    assert schemas["ModelConfiguration"]["properties"]["backend"]["enum"] == list(BACKENDS.values())
