# nextn and its engine; runs `nextn up MODEL`. Build: docker build -t nextn .
# BASE: any image with Python 3.10 or newer as `python`, its module venv, and apt.
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
COPY docs docs
COPY man man
RUN python -m venv /opt/nextn && /opt/nextn/bin/pip install --no-cache-dir '.[engine]'

FROM ${BASE}
# The engine's library for threads.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nextn /opt/nextn
# The home folder, for caches and records, is open to whatever user `docker run --user` names.
RUN useradd --create-home --uid 1000 nextn && chmod 1777 /home/nextn && mkdir /models && chown nextn /models
ENV PATH=/opt/nextn/bin:$PATH HOME=/home/nextn PYTHONUNBUFFERED=1
USER nextn
WORKDIR /models
VOLUME /models
EXPOSE 8080
# The loopback address of a container cannot be reached from outside it; which address of the host leads here, -p says.
ENTRYPOINT ["nextn", "up", "--host", "0.0.0.0"]
CMD ["--help"]
