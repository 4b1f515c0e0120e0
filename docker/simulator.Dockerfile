# The simulator's side: Meta-World with MuJoCo, no torch. Built by docker/build.sh simulator; docker/README.md lists the arguments.
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS dependencies
ARG WITH=
COPY setup.cfg /source/
COPY docker/install.sh docker/constraints-simulator.txt /source/docker/
RUN bash /source/docker/install.sh --only libraries --group base
RUN bash /source/docker/install.sh --only dependencies --group simulator --venv /opt/shmbridge \
    --constraints /source/docker/constraints-simulator.txt --with "${WITH}" && \
    find /opt/shmbridge -type d -name tests -prune -exec rm -rf {} +

# Into a folder of its own: a change of the sources makes this small layer anew, and not the one of the dependencies.
FROM dependencies AS project
COPY LICENSE README.md pyproject.toml /source/
COPY launch /source/launch
COPY policies /source/policies
COPY shmbridge /source/shmbridge
RUN /opt/shmbridge/bin/python -m pip install --quiet --no-cache-dir --no-deps --prefix=/project /source

FROM ${BASE}
ARG WITH=
ARG GL=osmesa
COPY docker/install.sh /opt/
RUN bash /opt/install.sh --only libraries --group simulator --with "${WITH} ${GL#osmesa}" && rm /opt/install.sh && \
    { getent passwd 1000 >/dev/null || useradd --uid 1000 --home-dir /tmp --no-create-home shmbridge; } && \
    mkdir -p /models /datasets /eval && chmod 1777 /eval
COPY --from=dependencies /opt/shmbridge /opt/shmbridge
COPY --from=project /project /opt/shmbridge
# Under a user that nobody knows, as --user may say, there is no home and no name; libraries ask for both.
# NVIDIA's container toolkit brings what renders only where it is asked for.
ENV PATH=/opt/shmbridge/bin:${PATH} HOME=/tmp LOGNAME=shmbridge MUJOCO_GL=${GL} NVIDIA_DRIVER_CAPABILITIES=all
LABEL org.opencontainers.image.title="shmbridge-simulator" \
    org.opencontainers.image.description="A runner of shmbridge: evaluates a policy of another container in a simulator, through shared memory" \
    org.opencontainers.image.licenses="Apache-2.0"
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["tini", "--", "shmbridge"]
CMD ["run", "--policy_deployment", "remote", "--name", "default", "--num_episodes", "20", "--enable_cameras", "--headless", \
    "--remote_kill_on_exit", "--output_dir", "/eval", "metaworld", "--task", "drawer-open-v3"]
