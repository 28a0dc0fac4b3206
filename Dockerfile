# Three images from one file: docker build --target service|worker|train
# Each gets its own locked packages: the service has only the client side of the queue, the worker no HTTP server, and only training has
# TensorFlow.

FROM python:3.11-slim-bookworm AS packages
COPY requirements/ /requirements/
RUN python -m venv --without-pip /opt/venv

FROM packages AS service-packages
RUN pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements/service.txt

FROM packages AS worker-packages
RUN pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements/worker.txt

FROM packages AS train-packages
RUN pip --python /opt/venv install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements/train.txt

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    BENTOML_HOME=/var/lib/loupe/store \
    LOUPE_DATA_DIR=/var/lib/loupe/data
# The folders that volumes are mounted on belong to the user before, so that new volumes do too.
RUN useradd --uid 1000 --create-home loupe \
    && install --directory --owner=loupe --group=loupe /var/lib/loupe /var/lib/loupe/store /var/lib/loupe/data
WORKDIR /opt/loupe
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "loupe.cli"]

FROM base AS train
COPY --from=train-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY train/ train/
USER 1000:1000
# It runs once and ends; its exit code says whether it is well.
HEALTHCHECK NONE
CMD ["train", "--dataset", "fashion-mnist"]

FROM base AS worker
COPY --from=worker-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY worker/ worker/
USER 1000:1000
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["python", "-m", "worker.health"]
CMD ["worker"]

FROM base AS service
COPY --from=service-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY service/ service/
COPY worker/__init__.py worker/jobs.py worker/
USER 1000:1000
ENV LOUPE_HOST=0.0.0.0
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
CMD ["serve"]
