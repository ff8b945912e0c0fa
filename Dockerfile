# The service alone: no torch, no compiler, no root. Bundles are mounted, not copied in.
#
#   docker build --tag q8bert-serve .
#   docker run --read-only --cpus 4 --publish 8000:8000 --volume "$PWD/bundles/int8:/bundle:ro" q8bert-serve
#   docker stop --time 40 …     # longer than --leave and --drain together

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY training training
COPY export export
COPY runtime runtime
RUN python -m venv /opt/q8bert && /opt/q8bert/bin/pip install --no-cache-dir --no-compile ".[serve]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/q8bert /opt/q8bert
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin q8bert
USER 10001
ENV PATH=/opt/q8bert/bin:$PATH PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["q8bert", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["model=/bundle"]
