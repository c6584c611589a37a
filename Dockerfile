# docker build -t mitm-forwarder .
# docker run -d -p 8080:8080 -e SYSTEM_TOKEN=… -e FASTAPI_BASE_URL=http://api:8000 \
#     -v mitm-ca:/etc/mitm-forwarder -v mitm-state:/var/lib/mitm-forwarder mitm-forwarder
# Behind a package index with a private certificate: docker build --secret id=ca,src=/path/to/ca.pem …
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      gcc libc6-dev pkg-config python3-dev python3-venv ca-certificates \
      libcurl4-openssl-dev libpcre2-dev libjansson-dev libsqlite3-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# One pip fills the environment from outside, so that the image carries none.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY deploy/lock-runtime.txt deploy/
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --require-hashes -r deploy/lock-runtime.txt
COPY . .
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --no-deps --no-build-isolation . \
 && /opt/pip/bin/pip --python /opt/venv/bin/python uninstall -y setuptools

FROM ${BASE}
LABEL org.opencontainers.image.title="mitm-forwarder" org.opencontainers.image.licenses="MIT"
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      python3 ca-certificates libcurl4t64 libpcre2-8-0 libjansson4 libsqlite3-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --shell /usr/sbin/nologin --home-dir /var/lib/mitm-forwarder forwarder \
 && install -d -o forwarder -g forwarder -m 700 /etc/mitm-forwarder /var/lib/mitm-forwarder
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/mitm-forwarder STATE_DIR=/var/lib/mitm-forwarder MITM_LISTEN_PORT=8080
USER 10001:10001
WORKDIR /var/lib/mitm-forwarder
# The certificate authority that clients trust; the spool of activity records and the last good rule set.
VOLUME ["/etc/mitm-forwarder", "/var/lib/mitm-forwarder"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import os, socket; socket.create_connection(('127.0.0.1', int(os.environ['MITM_LISTEN_PORT'])), 2).close()"]
# What follows the image's name on the command line goes to mitmdump, too.
ENTRYPOINT ["mitm-forwarder", "run", "--", "--set", "confdir=/etc/mitm-forwarder"]
