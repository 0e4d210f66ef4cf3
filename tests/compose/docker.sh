#!/bin/sh
# Docker for tests: installed and started if it is missing, and images made from Debian packages, as no registry may be
# reachable. Read by `.` in the repository root; $0 is the script that reads it. Root is needed.
images=tests/compose/images
logs=$(mktemp -d)
prefix=sostenuto-stand-in

say() { echo "$0: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Install what is missing of Docker.
install() {
    [ "$(id -u)" = 0 ] || fail "this needs root: it kills processes in containers, and changes the owner of a directory"
    missing=""
    docker version --format '{{.Client.Version}}' >/dev/null 2>&1 || missing="$missing docker-cli"
    docker compose version >/dev/null 2>&1 || missing="$missing docker-compose"
    docker buildx version >/dev/null 2>&1 || missing="$missing docker-buildx"
    docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || missing="$missing docker.io iptables"
    command -v debootstrap >/dev/null || missing="$missing debootstrap"
    [ -z "$missing" ] && return
    command -v apt-get >/dev/null || fail "needed:$missing"
    say "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # names of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $missing >"$logs/apt.log" 2>&1 ||
        fail "installing failed: $(tail -n 3 "$logs/apt.log")"
}

start_docker() {
    docker info >/dev/null 2>&1 && return
    dockerd >"$logs/dockerd.log" 2>&1 &
    dockerd=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 $dockerd 2>/dev/null || break
        sleep 0.5
    done
    fail "dockerd does not start: $(tail -n 3 "$logs/dockerd.log")"
}

# Make an image like debian:trixie-slim, with the additional certificate authorities that this machine trusts.
make_debian() {
    docker image inspect "$1" >/dev/null 2>&1 && return
    say "making $1"
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" >"$logs/debootstrap.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 3 "$logs/debootstrap.log")"
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates" {} + 2>/dev/null || true
    chroot "$root" update-ca-certificates >/dev/null 2>&1
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
        "$root"/usr/share/locale/*
    tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "$1" >/dev/null
    rm -rf "$root"
}

build() {
    say "building $1"
    tag=$1
    shift
    docker build --quiet --tag "$tag" "$@" >/dev/null || fail "building $tag failed"
}

# Make $DEBIAN_IMAGE and $RUNTIME_IMAGE, the base images of deploy/Dockerfile.
make_base_images() {
    make_debian "$DEBIAN_IMAGE"
    build "$RUNTIME_IMAGE" --build-arg DEBIAN_IMAGE="$DEBIAN_IMAGE" --file $images/runtime.Dockerfile $images
}

# Make an image of TensorFlow Serving, by its name and the exporter's image: the executable that
# TENSORFLOW_MODEL_SERVER names, or else model_server behind its command line.
make_serving() {
    if [ -n "${TENSORFLOW_MODEL_SERVER:-}" ]; then
        build "$1" --build-arg EXPORTER_IMAGE="$2" --build-arg EXECUTABLE="$(basename "$TENSORFLOW_MODEL_SERVER")" \
            --file $images/tensorflow-serving-executable.Dockerfile "$(dirname "$TENSORFLOW_MODEL_SERVER")"
    else
        build "$1" --build-arg EXPORTER_IMAGE="$2" --file $images/tensorflow-serving.Dockerfile .
    fi
}

cleanup() {
    status=$?
    if [ -n "${dockerd:-}" ]; then
        kill "$dockerd" 2>/dev/null && wait "$dockerd" || true
    fi
    rm -rf "$logs"
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM
