# xidwatch as a container image, for amd64 and arm64 alike. docs/docker.md has the commands.
#
#   docker build --tag xidwatch .                       the daemon and what it needs
#   docker build --tag xidwatch:bcc --target bcc .      beside that, the compiler for --ebpf-loader bcc
#
# Every file gets the time SOURCE_DATE_EPOCH: two builds of one commit from the same packages have equal layers, and a
# new version of xidwatch changes the last one only.

FROM docker.io/library/python:3.12-slim-bookworm AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /src
COPY requirements-otel.lock .
RUN pip install --no-compile --require-hashes --requirement requirements-otel.lock

# xidwatch itself, in a tree of its own. It is built with setuptools, which the image does not have.
FROM packages AS app
ARG SOURCE_DATE_EPOCH=1767225600
COPY . .
RUN pip install --no-compile --no-warn-script-location --no-deps --no-build-isolation --no-index --root /app . \
    && python -m compileall -q --invalidation-mode unchecked-hash -s /app /app \
    && find /app -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# Python and the packages, without what is of no use when the daemon runs. Bytecode that is not checked against its
# source counts on any file system, whatever becomes of the files' times.
FROM packages AS python
ARG SOURCE_DATE_EPOCH=1767225600
WORKDIR /usr/local
RUN pip uninstall --yes setuptools pip \
    && rm -rf include share lib/pkgconfig \
        bin/2to3* bin/idle* bin/pip* bin/pydoc* bin/python*-config bin/python*-gdb.py \
        lib/python3.*/config-3.* lib/python3.*/ensurepip lib/python3.*/idlelib lib/python3.*/lib2to3 \
        lib/python3.*/test lib/python3.*/tkinter lib/python3.*/turtle* \
        lib/python3.*/lib-dynload/_*test* lib/python3.*/lib-dynload/_tkinter* lib/python3.*/lib-dynload/*xx* \
        lib/python3.*/site-packages/*/tests \
    && python -m compileall -q --invalidation-mode unchecked-hash lib \
    && mkdir --parents /python/usr \
    && cp --archive /usr/local /python/usr \
    && find /python -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# The same Debian as below Python above. Its stable release keeps each library at one version and mends it: a pinned one
# would go without what was mended.
FROM docker.io/library/debian:bookworm-slim AS runtime
ARG SOURCE_DATE_EPOCH=1767225600
COPY --from=python /python /
# hadolint ignore=DL3008
RUN begun=$(date +%s) \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates libbz2-1.0 libffi8 liblzma5 libsqlite3-0 libssl3 tzdata zlib1g \
    && ldconfig \
    && python3 -c 'import bz2, ctypes, lzma, sqlite3, ssl, zlib' \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/* \
    && find /etc /usr /var -xdev -newermt "@$begun" ! -path /etc/hosts ! -path /etc/hostname ! -path /etc/resolv.conf \
        -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} + \
    && touch --date="@$SOURCE_DATE_EPOCH" /run /tmp
COPY --from=app /app /
# PATH, NVIDIA_*: the NVIDIA runtime brings the driver's libnvidia-ml, and the node's GPUs to look at.
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
LABEL org.opencontainers.image.title="xidwatch" \
      org.opencontainers.image.description="A GPU node's black box and alarm: every NVIDIA Xid and SXid, decoded, kept and pushed" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
VOLUME ["/run/xidwatch", "/var/lib/xidwatch"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=10s --start-period=30s CMD ["xidwatch", "status", "--ready"]
ENTRYPOINT ["xidwatch"]
CMD ["serve"]

# With the BPF Compiler Collection of the distribution, which brings its own Python, and LLVM.
FROM runtime AS bcc
ARG SOURCE_DATE_EPOCH=1767225600
# hadolint ignore=DL3008
RUN begun=$(date +%s) \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-bpfcc \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/aux-cache /var/log/* \
    && find /etc /usr /var -xdev -newermt "@$begun" ! -path /etc/hosts ! -path /etc/hostname ! -path /etc/resolv.conf \
        -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} + \
    && touch --date="@$SOURCE_DATE_EPOCH" /run /tmp

# What a build without --target makes.
FROM runtime
