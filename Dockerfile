# Three images from one file: docker build --target service|worker|train
# Each has its own locked packages: the service has only the client side of the queue, the worker has
# no HTTP server, and only training has TensorFlow. Packages are installed before the code is copied,
# so a code change rebuilds in a second.

FROM python:3.11-slim-bookworm AS venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/venv
WORKDIR /requirements

# Includes gRPC (LOUPE_GRPC_PORT) and traces (OTEL_EXPORTER_OTLP_ENDPOINT).
FROM venv AS service-packages
COPY requirements/service.txt requirements/grpc.txt requirements/heif.txt requirements/tracing.txt ./
RUN pip --python /opt/venv install --no-cache-dir --require-hashes -r service.txt -r grpc.txt -r heif.txt -r tracing.txt

FROM venv AS worker-packages
COPY requirements/worker.txt requirements/heif.txt requirements/s3.txt ./
RUN pip --python /opt/venv install --no-cache-dir --require-hashes -r worker.txt -r heif.txt -r s3.txt

FROM venv AS train-packages
COPY requirements/train.txt requirements/heif.txt ./
RUN pip --python /opt/venv install --no-cache-dir --require-hashes -r train.txt -r heif.txt

FROM python:3.11-slim-bookworm AS base
LABEL org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    BENTOML_DO_NOT_TRACK=True \
    ORT_DISABLE_TELEMETRY=1 \
    BENTOML_HOME=/var/lib/loupe/store \
    LOUPE_DATA_DIR=/var/lib/loupe/data
# New volumes inherit the owner of the folders they are mounted on.
RUN useradd --uid 1000 --create-home loupe \
    && install --directory --owner=loupe --group=loupe /var/lib/loupe /var/lib/loupe/store /var/lib/loupe/data
WORKDIR /opt/loupe
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "loupe"]

FROM base AS train
LABEL org.opencontainers.image.title="loupe-train" \
      org.opencontainers.image.description="Trains classifiers of small images"
# Fashion-MNIST, so that the first model needs no download. Keras and Matplotlib keep only caches
# in /tmp.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends dataset-fashion-mnist=0.0~git20200523.55506a9-1 \
    && rm -rf /var/lib/apt/lists/*
ENV KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib
COPY --from=train-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY train/ train/
USER 1000:1000
# It runs once, so it has no health check, and `docker compose up --wait` waits until it runs.
CMD ["train", "--dataset", "fashion-mnist"]

FROM base AS worker
LABEL org.opencontainers.image.title="loupe-worker" \
      org.opencontainers.image.description="Scores whole sets of small images from a queue"
COPY --from=worker-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY worker/ worker/
USER 1000:1000
# A busy worker leaves the check little CPU time.
HEALTHCHECK --interval=5s --timeout=20s --start-period=30s CMD ["python", "-m", "worker.health"]
CMD ["worker"]

FROM base AS service
LABEL org.opencontainers.image.title="loupe-service" \
      org.opencontainers.image.description="Serves classifiers of small images over HTTP and gRPC"
COPY --from=service-packages /opt/venv /opt/venv
COPY loupe/ loupe/
COPY service/ service/
COPY worker/__init__.py worker/
COPY worker/queue/__init__.py worker/queue/checks.py worker/queue/depth.py worker/queue/
COPY worker/queue/jobs.py worker/queue/steps.py worker/queue/
COPY worker/queue/keys.py worker/queue/records.py worker/queue/results.py worker/queue/
COPY worker/queue/usage.py worker/queue/webhooks.py worker/queue/
COPY worker/queue/lua/ worker/queue/lua/
USER 1000:1000
ENV LOUPE_HOST=0.0.0.0
EXPOSE 3000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
CMD ["serve"]
