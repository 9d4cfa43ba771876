# Two stages: the first builds a wheel from this checkout and installs it into a directory of its own; the second has
# that directory, Python and nothing to build with. Redis is a service beside it: see docker-compose.yml.

FROM python:3.13-slim AS build
RUN python -m venv /opt/taskman
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY taskman taskman
COPY plugins plugins
COPY templates templates
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels . \
    && /opt/taskman/bin/pip install /wheels/*.whl \
    && /opt/taskman/bin/pip uninstall --yes pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Taskman" \
      org.opencontainers.image.description="A distributed task runner: tasks now, later and on schedules, watched live." \
      org.opencontainers.image.licenses="Apache-2.0"

# A named volume takes over the owner of the directory that it is mounted on: the secrets' ones are made here for that.
RUN groupadd --gid 10001 taskman \
    && useradd --uid 10001 --gid taskman --home-dir /data --no-create-home --shell /usr/sbin/nologin taskman \
    && install -d -o taskman -g taskman -m 0700 /data \
    && install -d -o taskman -g taskman -m 0755 /secrets/redis /secrets/server /secrets/worker
COPY --from=build /opt/taskman /opt/taskman

ENV PATH=/opt/taskman/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TASKMAN_DATA_DIR=/data \
    TASKMAN_BIND=0.0.0.0:8080
USER taskman
WORKDIR /data
VOLUME /data
EXPOSE 8080
# For `taskman server`; a worker has no port, and turns it off.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["taskman"]
CMD ["server"]
