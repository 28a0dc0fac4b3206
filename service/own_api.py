"""Loupe's own protocol: pictures of any kind in, labels and probabilities by name out."""

from starlette.responses import Response

from loupe.errors import NotAcceptable
from service import inputs, replies
from service.options import read_options
from service.predictor import Call

PROTOCOL = "loupe"  # in the metrics


async def predict(call: Call) -> Response:
    """Answer for one image."""
    options = read_options(call.request)
    with call.model(options.model) as served:
        card = served.stored.card
        names = card.names(options.language)
        with call.decoding():
            prepare = inputs.preparation(card.look, options.normalize)
            image = await inputs.read_image(call.request, call.settings, prepare)
        probabilities = await call.predict(image[None], served, threshold=options.threshold)  # (1, classes)
        with call.encoding():
            return replies.prediction(served.stored.tag, names, probabilities[0], options)


async def predict_batch(call: Call) -> Response:
    """Answer for many images, each by itself."""
    options = read_options(call.request)
    with call.model(options.model) as served:
        card = served.stored.card
        names = card.names(options.language)
        with call.decoding():
            prepare = inputs.preparation(card.look, options.normalize)
            batch = await inputs.read_batch(call.request, call.settings, prepare)
        as_npy = replies.NPY in call.request.headers.get("accept", "")
        if as_npy and batch.errors:
            wanted = "images that can all be read, for an answer as .npy"
            raise NotAcceptable(wanted, f"{len(batch.errors)} that cannot")
        probabilities = await call.predict(batch.images, served, threshold=options.threshold)
        with call.encoding():
            if as_npy:
                return replies.npy(served.stored.tag, probabilities)
            return replies.predictions(served.stored.tag, names, batch, probabilities, options)
