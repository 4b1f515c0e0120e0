#!/usr/bin/env bash
# Serves a policy from the policy's container.
set -euo pipefail
readonly side=policy subcommand=serve
here=$(dirname "$(readlink --canonicalize "${BASH_SOURCE[0]}")")
# shellcheck source=docker/common.sh
source "$here/common.sh"
# shellcheck source=docker/flags.sh
source "$here/flags.sh"
# shellcheck source=docker/container.sh
source "$here/container.sh"

usage() {
    cat <<END
usage: run_policy_host.sh [flags of this script] [--] [flags of 'shmbridge serve']

Starts a container that serves a policy through shared memory; docker/run_sim.sh starts the other side.
Without --policy_type it is the demo's: --policy_type pixel_bc. Files are named as seen inside: /models/config.yaml.

$(own_flags)

Examples:
  run_policy_host.sh
  run_policy_host.sh -m ~/weights --name second --policy_config_yaml_path /models/second.yaml
  run_policy_host.sh -- --help          the flags of 'shmbridge serve'
END
}

with_defaults() {
    has_flag --policy_type "${words[@]}" || words=(--policy_type pixel_bc "${words[@]}")
}

main() {
    read_flags "$@"
    refuse_late_flags "${words[@]}"
    ! $defaults || with_defaults
    run_in_container "$subcommand" "${words[@]}"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
