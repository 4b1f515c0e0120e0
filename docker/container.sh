#!/usr/bin/env bash
# The container of run_policy_host.sh or run_sim.sh: the words of the engine's 'run', and an end that comes with its script's.
# Meant to be sourced, after flags.sh.
# shellcheck disable=SC2154 # flags.sh and common.sh set what is used here

readonly stop_seconds=10
readonly keeper_seconds=60 # after which no engine makes the container any more that it was asked for
readonly run_label=shmbridge.run=$$-$RANDOM$RANDOM
client="" keeper="" alive="" own_status="" stopping=false
cdi_folders=(/etc/cdi /var/run/cdi)

add_user() {
    if is_rootless; then
        # The root of rootless docker's container is the user outside; podman can give the user the same number inside.
        [[ $engine == docker ]] && user=${user:-0:0} || run_words+=(--userns=keep-id)
    fi
    run_words+=(--user "${user:-$(id -u):$(id -g)}")
    local group
    group=$(flag_value --shm_group "$@")
    [[ -z $group ]] || run_words+=(--group-add "$group")
}

add_folders() {
    if [[ -z $evaluation ]]; then
        mkdir -p "$HOME/eval" || fail "cannot make the default folder for output; say another one: -e FOLDER"
        evaluation=$(folder -e "$HOME/eval")
    fi
    add_mount "${models:-$HOME/models}" /models ,readonly
    add_mount "${datasets:-$HOME/datasets}" /datasets ,readonly
    add_mount "$evaluation" /eval
    [[ -n $user ]] || may_write "$evaluation" || fail "-e $evaluation: you may not write there, as its owner may; give another folder, or --user UID:GID"
}

add_mount() {
    [[ ! -d $1 ]] || run_words+=(--mount "type=bind,source=$1,target=$2${3-}")
}

# In the container root may not write what belongs to others either: it has no capabilities.
may_write() {
    if ((EUID)); then [[ -w $1 ]]; else [[ -O $1 || $(stat -c %a "$1") =~ [2367]$ ]]; fi
}

add_gpus() {
    local missing
    missing=$(missing_for_gpus)
    if [[ -n $missing ]]; then
        [[ -z $gpus || $gpus == none ]] || fail "-g $gpus: $missing"
        return
    fi
    [[ $gpus != none ]] || return 0
    gpu_words "${gpus:-all}"
}

gpu_words() {
    local gpu
    if [[ $engine == docker ]]; then
        local wanted=all
        [[ $1 == all ]] || wanted="\"device=$1\""
        # Not only computing: simulators render.
        run_words+=(--gpus "$wanted" --env NVIDIA_DRIVER_CAPABILITIES=all)
        return
    fi
    for gpu in ${1//,/ }; do
        run_words+=(--device "nvidia.com/gpu=$gpu")
    done
}

# Prints what the engine lacks to hand out GPUs, and how to get it.
missing_for_gpus() {
    if [[ $engine == podman ]]; then
        grep -rqs 'nvidia\.com/gpu' "${cdi_folders[@]}" ||
            echo "podman finds no description of nvidia.com/gpu in ${cdi_folders[*]}; make one: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    elif [[ $(docker info --format '{{json .Runtimes}}' 2>/dev/null) != *'"nvidia"'* ]]; then
        echo "'docker info' lists no runtime called nvidia; install the NVIDIA Container Toolkit, then: nvidia-ctk runtime configure --runtime=docker"
    fi
}

# Makes the tmpfs volume where it is missing. What has its name but is no tmpfs would be on disk, and slow without a word.
add_volume() {
    local volume=${shm%%:*} megabytes=512 options
    [[ $shm != *:* ]] || megabytes=${shm#*:}
    [[ $volume =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$ && $megabytes =~ ^[1-9][0-9]*$ ]] || misused "--shm $shm: expected the name of a volume, or NAME:MEGABYTES"
    # In pages, because podman 4 refuses a size in bytes.
    options=nr_blocks=$((megabytes * 1024 * 1024 / $(getconf PAGESIZE))),mode=1777
    has_volume "$volume" || make_volume "$volume" "$options"
    check_volume "$volume" "$options"
    run_words+=(--volume "$volume:/dev/shm")
}

has_volume() { "$engine" volume inspect "$1" >/dev/null 2>&1; }

make_volume() {
    local said words=(volume create --driver local --opt type=tmpfs --opt device=tmpfs --opt "o=$2" "$1")
    show "$engine" "${words[@]}"
    # Another script may make it at the same moment: what the engine then complains of is no trouble.
    said=$("$engine" "${words[@]}" 2>&1 >/dev/null) || has_volume "$1" || fail "cannot make the volume $1: $said"
}

check_volume() {
    local found change="remove it when no container uses it: $engine volume rm $1"
    found=$("$engine" volume inspect --format '{{index .Options "type"}}|{{index .Options "o"}}' "$1")
    [[ $found == 'tmpfs|'* ]] || fail "the volume $1 is no tmpfs, so it is on disk; $change; or name another one: --shm NAME"
    [[ $shm != *:* || $found == "tmpfs|$2" ]] || fail "--shm $shm: the volume is there with another size (${found#*|}, in pages; asked for: $2); $change"
}

# run_in_container [words for the image's entry point]: runs them and ends with their status.
run_in_container() {
    # From here on: an engine's command that ends at a Ctrl-C like at any error would let this script go on.
    heed_signals
    check_user "$@"
    find_engine
    image=${image:-shmbridge-$side} shm=${shm:-shmbridge-shm}
    container=${container:-$(printf 'shmbridge-%s-%d-%04x' "$side" $$ $RANDOM)}
    run_words=(--rm --name "$container" --label "shmbridge=$side" --label "$run_label")
    add_user "$@"
    add_folders
    add_gpus
    get_image
    add_volume
    run_words+=(--network "$network" --read-only --tmpfs "/tmp:rw,exec,nosuid,nodev,mode=1777" --env HOME=/tmp --env XDG_CACHE_HOME=/tmp)
    run_words+=(--cap-drop ALL --security-opt no-new-privileges)
    # Where SELinux is on, two containers could not share memory, nor see the folders, without relabelling them.
    [[ ! -e /sys/fs/selinux/enforce ]] || run_words+=(--security-opt label=disable)
    # Podman has systemd look after a container's health, and complains where there is none.
    [[ $engine != podman || -d /run/systemd/system ]] || run_words+=(--no-healthcheck)
    ! at_terminal || run_words+=(--interactive --tty)
    # The script itself passes on that it is to end.
    run_words+=(--sig-proxy=false)
    attend run "${run_words[@]}" "${engine_flags[@]}" "$image" "$@"
}

at_terminal() { [[ -t 0 && -t 1 ]]; }

get_image() {
    if ! $rebuild; then
        has_image "$image" && return
        say "there is no image $image here; building it, which takes minutes"
    fi
    # A trap would have to wait for its end.
    trap - INT TERM HUP
    build_image "$side" "$image" "${build_flags[@]}" >&2
    heed_signals
}

heed_signals() {
    local name
    for name in INT TERM HUP; do
        # shellcheck disable=SC2064 # the status that a shell ends with after this signal is known now
        trap "stop_container $((128 + $(kill -l "$name")))" "$name"
    done
}

# Runs the engine, and sees to it that its container ends when this script does, however that is.
attend() {
    local status=0 own_session=()
    show "$engine" "$@"
    start_keeper
    # Podman's client would end at a Ctrl-C that it gets itself, before the container. At a terminal there is none: it goes inside as a key.
    at_terminal || own_session=(setsid)
    # Not in the foreground: the shell would look at a signal only when it has ended.
    "${own_session[@]}" "$engine" "$@" <&0 {alive}>&- &
    client=$!
    while stopping=false && status=0; do
        wait "$client" || status=$?
        $stopping || break
    done
    trap '' INT TERM HUP
    remove_container
    kill -- "-$keeper" 2>/dev/null || kill "$keeper" 2>/dev/null || true
    exit "$(end_status "$status")"
}

# Prints what this script ends with after its container ended with STATUS: its own signal's, if that is what ended the container.
end_status() {
    [[ -n $own_status && $1 =~ ^(143|137|130)$ ]] && echo "$own_status" || echo "$1"
}

# stop_container STATUS: what a shell ends with after the signal that came. Ends this script with it if nothing was started yet.
stop_container() {
    local until=$((SECONDS + keeper_seconds))
    own_status=${own_status:-$1}
    # Or its number is not known yet: then the keeper ends it.
    [[ -n $client ]] || exit "$1"
    stopping=true
    # Again and again: when the signal comes early there is no container yet, or one that is made but not started, which engines take for stopped.
    while kill -0 "$client" 2>/dev/null && ((SECONDS < until)); do
        for_our_container stop -t "$stop_seconds"
        sleep 0.2
    done
}

# It is gone already, unless the engine's client was killed or detached from it.
remove_container() {
    for_our_container stop -t "$stop_seconds"
    for_our_container rm --force
}

# By the label and not by the name, which somebody else may have.
for_our_container() {
    local id
    for id in $("$engine" ps --all --quiet --filter "label=$run_label" 2>/dev/null); do
        "$engine" "$@" "$id" >/dev/null 2>&1 || true
    done
}

# Waits, in a session of its own, for this script to be killed in a way that it cannot handle: then the pipe that only it holds open ends.
# Its number would not do: a script whose parent does not ask how it ended keeps it.
start_keeper() {
    # shellcheck disable=SC2016 # the inner shell is to expand them
    local wait_and_remove='read -r
        started=$SECONDS
        while ((SECONDS - started < $4)); do
            for id in $("$1" ps --all --quiet --filter "label=$2"); do "$1" stop -t "$3" "$id"; "$1" rm --force "$id"; exit; done
            sleep 1
        done'
    exec {alive}> >(exec setsid bash -c "$wait_and_remove" keeper "$engine" "$run_label" "$stop_seconds" "$keeper_seconds" >/dev/null 2>&1)
    keeper=$!
}
