# zdm as a command: docker run --rm IMAGE status --url …
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY phases phases
COPY triggers triggers
COPY migrations migrations
RUN python -m venv /opt/zdm && /opt/zdm/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/zdm /opt/zdm
ENV PATH="/opt/zdm/bin:$PATH" PYTHONUNBUFFERED=1
RUN useradd --system --no-create-home zdm
USER zdm
ENTRYPOINT ["zdm"]
CMD ["--help"]
