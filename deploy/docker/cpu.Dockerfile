# Workers and driver on CPUs: docker build --file deploy/docker/cpu.Dockerfile --tag hoarfrost-cpu:0.2.0 .
# The version of Beam and the minor version of Python must be the driver's.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim
LABEL org.opencontainers.image.title="hoarfrost-cpu" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Names of keras.applications whose ImageNet weights the driver then need not download. Workers
# never need them: they load the base from the store.
ARG BASES="VGG16 MobileNetV2"
ENV KERAS_HOME=/opt/keras \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/hoarfrost
COPY setup.py pyproject.toml constraints.txt README.md ./
COPY featurestore ./featurestore
COPY classifier ./classifier
COPY pipelines ./pipelines
RUN pip install --no-cache-dir --constraint constraints.txt ".[dask,gcp,openvino,s3]"
RUN python -c "import keras; [getattr(keras.applications, name)(include_top=False) for name in '${BASES}'.split()]"
# The program that starts a worker, and serves a pool of them with --worker_pool.
COPY --from=beam /opt/apache/beam /opt/apache/beam
WORKDIR /work
ENTRYPOINT ["/opt/apache/beam/boot"]
