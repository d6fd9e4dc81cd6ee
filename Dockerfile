# nextn and its engine; runs `nextn up MODEL`. Build: docker build -t nextn .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
COPY docs docs
COPY man man
RUN python -m venv /opt/nextn && /opt/nextn/bin/pip install --no-cache-dir '.[engine]'

FROM python:3.12-slim
# The engine's library for threads.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nextn /opt/nextn
RUN useradd --create-home --uid 1000 nextn && mkdir /models && chown nextn /models
ENV PATH=/opt/nextn/bin:$PATH PYTHONUNBUFFERED=1
USER nextn
WORKDIR /models
VOLUME /models
EXPOSE 8080
ENTRYPOINT ["nextn", "up"]
CMD ["--help"]
