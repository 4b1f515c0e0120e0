#!/usr/bin/env bash
# Builds the image of one side from this folder's Dockerfile.
set -euo pipefail
here=$(dirname "$(readlink --canonicalize "${BASH_SOURCE[0]}")")
# shellcheck source=docker/common.sh
source "$here/common.sh"

usage() {
    cat <<END
usage: build.sh {policy,simulator} [flags] [-- words for the engine's 'build']

Builds the image shmbridge-policy or shmbridge-simulator from docker/SIDE.Dockerfile.

  --engine {docker,podman}  default: whichever works, docker first
  --image NAME              its name (default: shmbridge-SIDE)
  -v, --verbose             show the engine's command
  -h, --help                this text

Examples:
  build.sh policy
  build.sh simulator --image sim:test -- --no-cache --build-arg BASE=docker.io/library/python:3.12-slim
END
}

side="" image=""

read_flags() {
    while (($#)); do
        case $1 in
            --engine | --image)
                (($# >= 2)) || misused "$1 needs a value"
                [[ $1 == --engine ]] && engine=$2 || image=$2
                shift 2
                ;;
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            -v | --verbose) verbose=true && shift ;;
            -h | --help) usage && exit 0 ;;
            --) shift && break ;;
            -*) misused "unknown flag: $1" ;;
            *) take_side "$1" && shift ;;
        esac
    done
    build_words=("$@")
}

take_side() {
    [[ -z $side ]] || misused "one side at a time: $side or $1"
    [[ $1 == policy || $1 == simulator ]] || misused "'$1' is no side: policy or simulator"
    side=$1
}

read_flags "$@"
[[ -n $side ]] || misused "say which side: policy or simulator"
find_engine
build_image "$side" "${image:-shmbridge-$side}" "${build_words[@]}"
