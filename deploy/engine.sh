# shellcheck shell=bash
# For scripts that build and run the images: docker if an engine answers, else buildah, podman and runc as root.
# TORCH_INDEX_URL, PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are passed to the builds; with buildah also this host's pip.conf,
# certificates and wheel folder. Sourced in the root of the repository; sets engine, run, build, hardened and base.
base=$(sed -n 's/^ARG BASE=//p' server/Dockerfile | head -1)
hardened=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges)

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

step() {
    echo "== $*"
}

# within SECONDS COMMAND…: repeats the command until it succeeds.
within() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < end)) || return 1
        sleep 0.5
    done
}

free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)) && (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

use_docker() {
    engine=docker
    run=(docker run)
    build=(docker build)
    build_arguments TORCH_INDEX_URL PIP_INDEX_URL PIP_EXTRA_INDEX_URL
}

use_buildah() {
    local path
    for path in buildah podman runc; do
        command -v "$path" >/dev/null || die "no docker engine answers, and $path is not installed"
    done
    engine=podman
    # podman's default limits are higher than those permitted inside another container.
    run=(podman --runtime runc run --network host --ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
    # The docker format, because OCI's has no health check.
    build=(buildah bud --layers --format docker --isolation chroot --network host)
    export PIP_CERT=${PIP_CERT:-${SSL_CERT_FILE:-}}
    for path in /etc/pip.conf "$PIP_CERT" "${PIP_FIND_LINKS:-}"; do
        if [ -n "$path" ] && [ -e "$path" ]; then build+=(--volume "$path:$path:ro"); fi
    done
    build_arguments TORCH_INDEX_URL PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
}

build_arguments() {
    local variable
    for variable; do
        if [ -n "${!variable:-}" ]; then build+=(--build-arg "$variable=${!variable}"); fi
    done
}

# Before the builds, for a one-line message on a machine without a registry.
need_base() {
    "$engine" image inspect "$base" >/dev/null 2>&1 || "$engine" pull --quiet "$base" >/dev/null 2>&1 ||
        die "the base image $base is not here and cannot be pulled (is an image registry reachable?)"
}

if docker version --format '{{.Server.Version}}' >/dev/null 2>&1; then use_docker; else use_buildah; fi

build+=(--build-arg "VERSION=$(cat VERSION)" --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)")
if revision=$(git rev-parse HEAD 2>/dev/null); then build+=(--build-arg "REVISION=$revision"); fi
