# One image for every component: `docker run IMAGE activator`, `queueproxy`, `autoscaler`, `controller`.
#
# The first stage builds a virtual environment, the second is a bare interpreter with nothing but that: no compiler, no
# pip, no shell history of a build. All dependencies come as wheels; if one ever does not, the build fails here instead
# of pulling a compiler in.

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY activator activator
COPY autoscaler autoscaler
COPY controller controller
COPY eventing eventing
COPY kncore kncore
COPY queueproxy queueproxy
COPY torpor torpor
# Without pip inside: the one of this stage installs into it.
RUN python -m venv --without-pip /opt/torpor \
 && python -m pip --python /opt/torpor/bin/python install --no-cache-dir --only-binary :all: '.[otlp]' \
 && /opt/torpor/bin/python -m compileall -q /opt/torpor/lib

FROM python:3.11-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="torpor" \
      org.opencontainers.image.description="Knative's Serving API in Python: activator, queue-proxy, autoscaler, controller" \
      org.opencontainers.image.source="https://github.com/torpor/torpor" \
      org.opencontainers.image.documentation="https://github.com/torpor/torpor/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip
COPY --from=build /opt/torpor /opt/torpor
ENV PATH=/opt/torpor/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can verify runAsNonRoot without looking into the image; 65532 is what distroless calls nonroot.
USER 65532:65532
WORKDIR /tmp
# -P: the working directory must not shadow our imports.
ENTRYPOINT ["python", "-P", "-m"]
CMD ["torpor.cli.main", "version"]
