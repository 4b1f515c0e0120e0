#!/usr/bin/env bash
# Runs a simulator, driven by the policy of another container, from the simulator's container.
set -euo pipefail
readonly side=simulator subcommand=run
here=$(dirname "$(readlink --canonicalize "${BASH_SOURCE[0]}")")
# shellcheck source=docker/common.sh
source "$here/common.sh"
# shellcheck source=docker/flags.sh
source "$here/flags.sh"
# shellcheck source=docker/container.sh
source "$here/container.sh"

# The flags of 'shmbridge run' that take no value: they decide which word is ENVIRONMENT. A test compares them with the command's own.
readonly switches=" --describe --enable_cameras --headless --help --json --record --remote_kill_on_exit -h "

usage() {
    cat <<END
usage: run_sim.sh [flags of this script] [--] [flags of 'shmbridge run'] [ENVIRONMENT [its own flags]]

Starts a container that runs a simulator with the policy of a host; docker/run_policy_host.sh starts the other side.
What you do not give is: --policy_deployment remote --num_episodes 20 --enable_cameras --headless --output_dir /eval
metaworld --task drawer-open-v3. --num_steps N takes the place of --num_episodes.

$(own_flags)

Examples:
  run_sim.sh
  run_sim.sh -e ~/results --num_episodes 5 --remote_kill_on_exit
  run_sim.sh --name second --output_dir /eval/second metaworld --task reach-v3
  run_sim.sh -- --help                  the flags of 'shmbridge run'
END
}

# Prints how many of the words come before ENVIRONMENT: flags and their values.
environment_place() {
    local place=0 all=("$@")
    while [[ ${all[place]-} == -* ]]; do
        takes_value "${all[place]}" "${all[place + 1]-}" && place=$((place + 1))
        place=$((place + 1))
    done
    echo "$place"
}

takes_value() {
    local flag=${1//-/_}
    [[ $1 != *=* && -n $2 && $2 != --* && $switches != *" $1 "* && $switches != *" --${flag#__} "* ]]
}

with_defaults() {
    local place own environment
    place=$(environment_place "${words[@]}")
    own=("${words[@]:0:place}") environment=("${words[@]:place}")
    has_flag --headless "${own[@]}" || own=(--headless "${own[@]}")
    has_flag --enable_cameras "${own[@]}" || own=(--enable_cameras "${own[@]}")
    has_flag --output_dir "${own[@]}" || own=(--output_dir /eval "${own[@]}")
    has_extent "${own[@]}" || own=(--num_episodes 20 "${own[@]}")
    has_flag --policy_deployment "${own[@]}" || own=(--policy_deployment remote "${own[@]}")
    ((${#environment[@]})) || environment=(metaworld --task drawer-open-v3)
    words=("${own[@]}" "${environment[@]}")
}

has_extent() { has_flag --num_episodes "$@" || has_flag --num_steps "$@" || has_flag --describe "$@"; }

main() {
    read_flags "$@"
    refuse_late_flags "${words[@]:0:$(environment_place "${words[@]}")}"
    ! $defaults || with_defaults
    run_in_container "$subcommand" "${words[@]}"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
