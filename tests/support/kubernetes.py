"""Objects of Kubernetes, checked against its schemas."""

import warnings
from typing import Any

KUBERNETES = "1.34"


def validate(each: dict[str, Any]) -> None:
    """Raise an error if an object does not follow the schema, or has unknown fields."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own imports
        import kubernetes_validate
    kubernetes_validate.validate(each, KUBERNETES, strict=True)
