# Dataflow's Flex Template, whose workers start the same image:
# docker build --file deploy/docker/flex.Dockerfile --tag hoarfrost-flex:0.2.0 .
# Build cpu.Dockerfile or gpu.Dockerfile first; IMAGE is what you called it.
ARG IMAGE=hoarfrost-cpu:0.2.0
FROM gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00 AS launcher

FROM ${IMAGE}
LABEL org.opencontainers.image.title="hoarfrost-flex" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY deploy/flex/launch.py /opt/hoarfrost/launch.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/hoarfrost/launch.py
