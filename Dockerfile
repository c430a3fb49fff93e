# One image for the worker, the commands and the simulators of temporal-dev.yml.
FROM python:3.11-slim AS packages
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements.lock

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
COPY LICENSE worker.py starter.py ./
COPY activities activities
COPY calltasks calltasks
COPY simulators simulators
COPY workflows workflows
# By number, so that a cluster can see that it is not root.
USER 10001:10001
CMD ["python", "worker.py"]
