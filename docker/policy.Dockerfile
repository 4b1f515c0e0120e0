# The policy's side: torch and the policies, no simulator. Built by docker/build.sh policy; docker/README.md lists the arguments.
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS dependencies
ARG TORCH=
ARG WITH=
COPY setup.cfg /source/
COPY docker/install.sh docker/constraints-policy.txt /source/docker/
RUN bash /source/docker/install.sh --only libraries --group base
RUN bash /source/docker/install.sh --only dependencies --group policy --venv /opt/shmbridge \
    --constraints /source/docker/constraints-policy.txt --torch "${TORCH}" --with "${WITH}" && \
    # Tests, and what only compiling needs; torch does start torch_shm_manager.
    cd /opt/shmbridge/lib/python3.*/site-packages && rm -rf torch/include torch/test && \
    find torch/bin -type f ! -name torch_shm_manager -delete && find . -type d -name tests -prune -exec rm -rf {} +

# Into a folder of its own: a change of the sources makes this small layer anew, and not the one of the dependencies.
FROM dependencies AS project
COPY LICENSE README.md pyproject.toml /source/
COPY launch /source/launch
COPY policies /source/policies
COPY shmbridge /source/shmbridge
RUN /opt/shmbridge/bin/python -m pip install --quiet --no-cache-dir --no-deps --prefix=/project /source

FROM ${BASE}
COPY docker/install.sh docker/healthcheck.sh /opt/
RUN bash /opt/install.sh --only libraries --group policy && rm /opt/install.sh && chmod 755 /opt/healthcheck.sh && \
    { getent passwd 1000 >/dev/null || useradd --uid 1000 --home-dir /tmp --no-create-home shmbridge; } && \
    mkdir -p /models /datasets /eval && chmod 1777 /eval
COPY --from=dependencies /opt/shmbridge /opt/shmbridge
COPY --from=project /project /opt/shmbridge
# Under a user that nobody knows, as --user may say, there is no home and no name; libraries ask for both.
ENV PATH=/opt/shmbridge/bin:${PATH} HOME=/tmp LOGNAME=shmbridge
LABEL org.opencontainers.image.title="shmbridge-policy" \
    org.opencontainers.image.description="A host of shmbridge: serves a policy to a simulator in another container, through shared memory" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
WORKDIR /tmp
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s --retries=6 CMD ["bash", "/opt/healthcheck.sh"]
ENTRYPOINT ["tini", "--", "shmbridge"]
CMD ["serve", "--name", "default", "--policy_type", "pixel_bc"]
