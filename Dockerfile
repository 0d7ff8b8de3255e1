# The image of every node of a cluster: Backstay and its locked packages, checked by hash.
#
#   docker build --target cpu --tag backstay:0.1.0-cpu .
#   docker build --target gpu --tag backstay:0.1.0-gpu .     with the CUDA packages of PyTorch
#
# A GPU node's machine brings the NVIDIA driver and container toolkit; the image brings the rest.
# Neither image holds a token or a key.

FROM python:3.11-slim-bookworm AS base
# rsync and bash: Ray's cluster launcher copies files into the container and runs login shells.
# wget: the probes of KubeRay. hostname and procps: the commands that start and stop Ray. Login
# shells reset PATH, so that it is set once more in /etc/profile.d.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash hostname procps rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid 100 ray \
    && install --directory --owner=ray --group=users /opt/backstay /home/ray/.ray \
    && echo "PATH=/opt/backstay/.venv/bin:\$PATH" > /etc/profile.d/backstay.sh
USER 1000
WORKDIR /opt/backstay
# Packages first: a change of the code keeps their layer.
COPY --chown=ray:users LICENSE README.md bootstrap.py pyproject.toml requirements*.lock ./
COPY --chown=ray:users platform/backstay/__init__.py platform/backstay/__init__.py
# No statistics are sent, and Ray refuses to start without the cluster's token.
ENV PATH=/opt/backstay/.venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0

FROM base AS cpu
RUN python3 bootstrap.py setup
COPY --chown=ray:users platform platform
WORKDIR /home/ray
CMD ["backstay", "--help"]

FROM base AS gpu
ENV BACKSTAY_GPU=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN python3 bootstrap.py setup
COPY --chown=ray:users platform platform
WORKDIR /home/ray
CMD ["backstay", "--help"]
