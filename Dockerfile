# repr-serve as an image. The artifacts are mounted:
#   docker build -t repr-serve .
#   docker run -p 8000:8000 -p 8001:8001 -v "$PWD/artifacts:/artifacts:ro" repr-serve /artifacts/resnet20
# For a GPU: --build-arg BASE=IMAGE, one on Debian or Ubuntu with CUDA and cuDNN; and
# --build-arg EXTRAS=serve,tensorrt-rtx for engines of TensorRT-RTX.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# A base of CUDA has no Python of its own; its distribution has one version of it.
# hadolint ignore=DL3008
RUN command -v python3 > /dev/null || { apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; }
COPY . /src
ARG EXTRAS=serve
# pip takes no hashes for what it finds by itself: they are compared with what it says that it installed.
RUN python3 -m venv /opt/serve \
 && sed '/--hash/d; s/ \\$//' /src/requirements.lock > /tmp/pins \
 && /opt/serve/bin/python -m pip install --no-cache-dir --constraint /tmp/pins --report /tmp/report "/src[${EXTRAS}]" \
 && python3 -c 'import json, sys; lock = open("/src/requirements.lock").read(); sys.exit([one["metadata"]["name"] for one in json.load(open("/tmp/report"))["install"] if not one["is_direct"] and one["download_info"]["archive_info"]["hashes"]["sha256"] not in lock] or 0)'

FROM ${BASE}
# hadolint ignore=DL3008
RUN command -v python3 > /dev/null || { apt-get update \
 && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
RUN useradd --uid 10001 --create-home serve
COPY --from=build /opt/serve /opt/serve
USER 10001
ENV PATH=/opt/serve/bin:$PATH \
    REPR_SERVE_HOST=0.0.0.0
EXPOSE 8000 8001
# The port opens when the golden samples of all models have passed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
  CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('REPR_SERVE_PORT', '8000') + '/v2/health/ready', timeout=4)"]
ENTRYPOINT ["repr-serve"]
CMD ["--help"]
