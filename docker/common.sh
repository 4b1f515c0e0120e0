#!/usr/bin/env bash
# What build.sh, run_policy_host.sh and run_sim.sh share: messages, the container engine, images. Meant to be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
HOME=${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}
readonly program=${0##*/}
readonly ask_seconds=30

engine="" # docker or podman: as asked for, then as found
verbose=false

say() { echo "$program: $*" >&2; }
fail() { say "$*" && exit 1; }
misused() { say "$*; see $program --help" && exit 2; }

# Shows a command where -v was given.
show() { ! $verbose || say "$(quoted "$@")"; }
shown() { show "$@" && "$@"; }

quoted() {
    local word text=""
    for word in "$@"; do
        [[ $word =~ ^[a-zA-Z0-9_./:=,@+-]+$ ]] || printf -v word %q "$word"
        text+=" $word"
    done
    echo "${text# }"
}

# Sets $engine to the one asked for, or to the first that works: docker's command is often there without an engine behind it.
find_engine() {
    local name why reasons=""
    for name in ${engine:-docker podman}; do
        [[ $name == docker || $name == podman ]] || misused "--engine $name: docker or podman"
        if why=$(why_not "$name"); then
            # A docker command that is podman's takes podman's words.
            [[ $("$name" --version 2>/dev/null) == podman* ]] && name=podman
            engine=$name
            return
        fi
        reasons+="; $why"
    done
    fail "no container engine works here: ${reasons#; }"
}

# Prints why an engine does not work; ends with 0 where it does.
why_not() {
    local said
    command -v "$1" >/dev/null || { echo "$1 is not installed" && return 1; }
    said=$(timeout "$ask_seconds" "$1" info 2>&1 >/dev/null) && return
    said=${said##*$'\n'}
    echo "'$1 info' fails${said:+: $said}"
    return 1
}

is_rootless() {
    case $engine in
        docker) [[ $(docker info --format '{{json .SecurityOptions}}' 2>/dev/null) == *name=rootless* ]] ;;
        podman) [[ $(podman info --format '{{.Host.Security.Rootless}}' 2>/dev/null) == true ]] ;;
    esac
}

has_image() { "$engine" image inspect "$1" >/dev/null 2>&1; }

# build_image SIDE NAME [words for 'engine build']
build_image() {
    local format=()
    # Only this format has health checks.
    [[ $engine != podman ]] || format=(--format docker)
    shown "$engine" build "${format[@]}" --file "$root/docker/$1.Dockerfile" --tag "$2" "${@:3}" "$root"
}
