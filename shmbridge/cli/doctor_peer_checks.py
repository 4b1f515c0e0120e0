"""What ``shmbridge doctor --peer`` makes of a host: whether both sides have the same memory, and what else keeps them apart."""

from __future__ import annotations

from shmbridge.cli.doctor_facts import Folder, Machine
from shmbridge.cli.doctor_findings import COMMAND, Finding, Slug, ok, problem, warning
from shmbridge.cli.doctor_peer import Peer
from shmbridge.cli.wording import counted, duration, printable, size, user
from shmbridge.errors import AuthenticationError, HostNotFoundError, RemoteProtocolError, SpecError, TimedOutError
from shmbridge.memory.mounts import MAKE_VOLUME, VOLUME, is_engines_own
from shmbridge.memory.naming import SHM, socket_path
from shmbridge.messages import Description, HostState, Surroundings
from shmbridge.spec import nearest

_SHARE = f"""mount one tmpfs volume in both containers, with -v {VOLUME}:{SHM} of docker and podman run, made once with:
{COMMAND}{MAKE_VOLUME}
docker/compose.yaml and docker/pod.yaml do the like"""
_LITTLE_FREE = 16 * (1 << 20)
_TEXT_CHARS = 1000
_UNKNOWN = "unknown"
SAME_USER = "run both sides as one user: --user UID:GID of docker and podman run, user: in a compose file, runAsUser in a pod"
OR_GROUP = "or give both sides --shm_group GID, a group that both are in (--group-add GID)"


def check_peer(machine: Machine, peer: Peer) -> list[Finding]:
    """Return what all checks of a host came to."""
    told, there = peer.told, peer.there
    if told is None:
        return [] if machine.folder is None else [_unreached(peer, machine.folder)]  # without a folder nobody can be there, which is said already
    findings = [*_check_state(peer.name, told), *_check_places(peer.name, told)]
    if there is None:
        return [*findings, _old(peer.name, told, peer.here)]
    return [
        *findings,
        _check_memory(peer, there),
        _check_side(peer, there),
        _check_versions(peer.here, there),
        _check_libc(peer.here, there),
        _check_users(peer.here, there),
        _check_room(there),
        ok("host's system", _system(there)),
    ]


def _unreached(peer: Peer, folder: Folder) -> Finding:
    check, refusal = f"host {peer.name}", peer.refusal
    if isinstance(refusal, HostNotFoundError):
        if peer.socket is None:
            return _absent(check, peer, folder)
        return _silent(check, peer, "but it lets nobody in") if peer.is_held else _dead(check, peer)
    if isinstance(refusal, AuthenticationError | SpecError | PermissionError):
        return _refused(check, peer, str(refusal))
    if isinstance(refusal, RemoteProtocolError):
        found = f"answers, but cannot be understood: {printable(str(refusal), _TEXT_CHARS)}"
        return problem(Slug.DIFFERENT_VERSIONS, check, found, "both sides must speak the same protocol", "install one version of shmbridge on both sides")
    if isinstance(refusal, TimedOutError):
        return _silent(check, peer, "but it does not answer")
    return _silent(check, peer, f"but it ended the talk: {printable(str(refusal), _TEXT_CHARS)}")


def _absent(check: str, peer: Peer, folder: Folder) -> Finding:
    there = f"; there are: {', '.join(peer.others)}; {nearest(peer.name, peer.others)}".rstrip("; ") if peer.others else ", nor any other"
    found, same = f"is not in this {SHM}{there}", f"it must print memory id {_id(peer.here)} there, too:\n{COMMAND}shmbridge doctor --peer {peer.name}"
    if is_engines_own(folder.mount):
        found = f"{found}. The container engine made this one ({size(folder.room.total)}) for this container or pod alone"
        why = f"a host in another container is then in another {SHM}, and cannot be seen from here"
        return problem(Slug.PRIVATE_MEMORY, check, found, why, f"{_SHARE}\nthen run doctor on the other side; {same}")
    why = f"either it is not started, or it is in another {SHM}"
    start = f"{COMMAND}shmbridge serve --name {peer.name} --policy_type …"
    return problem(Slug.NO_HOST, check, found, why, f"start it:\n{start}\nif it runs, run doctor on its side; {same}\nif that prints another id, {_SHARE}")


def _dead(check: str, peer: Peer) -> Finding:
    whose = "" if peer.socket is None else f" of user {user(peer.socket.uid)}"
    found = f"its socket {socket_path(peer.name)}{whose} is here, but nobody listens"
    why = (
        f"it was killed; or its container was restarted and got another {SHM}, as happens with 'ipc:' in a compose file, "
        f"while this side kept the old one (memory id {_id(peer.here)})"
    )
    do = f"""start it, as that user, which removes what the dead one left, as 'shmbridge gc' does:
{COMMAND}shmbridge serve --name {peer.name} --policy_type …
if it runs, restart this side's container too, or use a volume, which outlives both"""
    return problem(Slug.DEAD_HOST, check, found, why, do)


def _silent(check: str, peer: Peer, how: str) -> Finding:
    found = f"its socket {socket_path(peer.name)} is here and it lives, {how}" if peer.is_held else f"its socket {socket_path(peer.name)} is here, {how}"
    why = "it is stopped (docker pause, Ctrl-Z, a debugger), or the machine is overloaded; a busy policy does not keep a host from answering"
    return problem(Slug.SILENT_HOST, check, found, why, "let it go on (docker unpause, kill -CONT), or end it and start it again")


def _refused(check: str, peer: Peer, text: str) -> Finding:
    found, _, do = printable(text, _TEXT_CHARS).partition(": ")
    if found.startswith("the client "):  # it is the host that refused: its own words, from where it stands
        found, do = f"refuses: {found}", f"on the host's side: {do}" if do else ""
    file = "" if peer.socket is None else f" (owner {user(peer.socket.uid)}, group {peer.socket.gid}, mode {peer.socket.mode:04o})"
    why = "a host's files are its own user's, and each side asks the kernel who the other is"
    return problem(Slug.OTHER_USER, check, f"{found}{file}", why, do or f"{SAME_USER}; {OR_GROUP}")


def _check_state(name: str, told: Description) -> list[Finding]:
    check, status = f"host {name}", told.status
    detail = f" ({printable(status.detail, _TEXT_CHARS)})" if status.detail else ""
    found = f"{status.state.value} for {duration(status.seconds)}{detail}"
    if status.state is HostState.FAILED:
        why, do = (
            "its policy could not be constructed; it tells that to clients that wait, and ends",
            "look at the host's log; try there: shmbridge serve … --check",
        )
        return [problem(Slug.FAILED_HOST, check, found, why, do)]
    if status.state in (HostState.LOADING, HostState.WARMING_UP):
        return [ok(check, f"answers; {found}: a client waits for it, as long as --remote_start_timeout_ms says")]
    return [ok(check, f"answers; serves {printable(told.policy)}, {found}. No session was tried")]


def _check_places(name: str, told: Description) -> list[Finding]:
    clients, takes = told.clients, counted(told.max_sessions, "client")
    if len(clients) < told.max_sessions:
        return [ok("places", f"{len(clients)} of {takes}")]
    served = ", ".join(
        f"{printable(client.client)} of {user(client.uid)} ({printable(client.state, 20)}, for {duration(client.seconds)})" for client in clients
    )
    do = (
        f"wait for it to end (shmbridge ls --name {name} --watch 1), start the host with --max_sessions {len(clients) + 1}, or a second one with another --name"
    )
    return [problem(Slug.NO_PLACE, "places", f"all taken: {len(clients)} of {takes}: {served}", "a further client is refused, not queued", do)]


def _old(name: str, told: Description, here: Surroundings) -> Finding:
    found = f"shmbridge {printable(told.version)} there, {here.version} here; it does not say where it runs"
    why = f"the two may not understand each other, and the memory can only be compared by running doctor there: {_id(here)} here"
    return warning(Slug.DIFFERENT_VERSIONS, "versions", found, why, f"install one version on both sides of {name}")


def _check_memory(peer: Peer, there: Surroundings) -> Finding:
    check = "same memory"
    if None in (there.memory_id, peer.here.memory_id):
        return ok(check, "the host was reached through it; more cannot be told by this kernel")
    if there.memory_id == peer.here.memory_id:
        return ok(check, f"yes: memory id {_id(peer.here)} on both sides")
    found = f"no: memory id {_id(there)} there, {_id(peer.here)} here; only the socket is seen by both"
    why = f"tensors and semaphores would lie where the other side does not look: {SHM} was mounted anew after the host had started, or on one side only in part"
    return problem(Slug.PRIVATE_MEMORY, check, found, why, f"restart both sides, and {_SHARE}")


def _check_side(peer: Peer, there: Surroundings) -> Finding:
    check = "side"
    if not there.mounts or not peer.here.mounts:
        return ok(check, "whether the host is in this container cannot be told by this kernel")
    if there.mounts != peer.here.mounts:
        return ok(check, "the host runs in another container, or with mounts of its own")
    do = f"in the other container, shmbridge doctor --peer {peer.name}: it must print memory id {_id(peer.here)} there, too"
    return ok(check, "the host runs on this side: nothing is known yet of another container", do)


def _check_versions(here: Surroundings, there: Surroundings) -> Finding:
    check, found, do = "versions", _both("shmbridge", there.version, here.version), "install one version of shmbridge on both sides"
    if there.protocol != here.protocol:
        protocols = _both("protocol", str(there.protocol), str(here.protocol))
        return problem(Slug.DIFFERENT_VERSIONS, check, f"{found}, {protocols}", "a host refuses a client that speaks another protocol", do)
    if there.version != here.version:
        return warning(Slug.DIFFERENT_VERSIONS, check, found, f"both speak protocol {here.protocol}, but were not tested with each other", do)
    return ok(check, found)


def _check_libc(here: Surroundings, there: Surroundings) -> Finding:
    found = _both("", there.libc, here.libc)
    if "glibc" in there.libc and "glibc" in here.libc:
        return ok("C libraries", found)
    why, do = "semaphores are shared, and others than glibc lay them out differently", "use images that are based on glibc, such as Debian, not Alpine"
    return problem(Slug.OTHER_LIBC, "C libraries", found, why, do)


def _check_users(here: Surroundings, there: Surroundings) -> Finding:
    if here.uid == there.uid:
        return ok("users", f"both sides run as {user(here.uid)}")
    group = there.shm_group if there.shm_group is not None else here.shm_group
    return ok("users", f"the host runs as {user(there.uid)}, this side as {user(here.uid)}; they share by group {group} (--shm_group)")


def _check_room(there: Surroundings) -> Finding:
    check = "room there"
    shm = "" if there.shm_free is None or there.shm_total is None else f"{SHM}: {size(there.shm_free)} free of {size(there.shm_total)}; "
    if there.cgroup_free is None or there.cgroup_total is None:
        return ok(check, f"{shm}the host's memory control group sets no limit")
    found = f"{shm}the host's memory control group: {size(there.cgroup_free)} free of {size(there.cgroup_total)}"
    if there.cgroup_free < _LITTLE_FREE:
        why = "the host reserves the tensors of all sessions, so they count in its group; a session that finds no room is refused"
        return warning(Slug.MEMORY_LIMIT, check, found, why, "raise --memory of the host's container, or use fewer environments or smaller cameras")
    return ok(check, found)


def _system(there: Surroundings) -> str:
    return f"Python {printable(there.python, 20)}, numpy {printable(there.numpy, 20)}, Linux {printable(there.kernel, 40)}, {there.cores:g} cores"


def _both(what: str, there: str, here: str) -> str:
    named = f"{what} " if what else ""
    there, here = printable(there, 60), printable(here, 60)
    return f"{named}{here} on both sides" if there == here else f"{named}{there} there, {here} here"


def _id(side: Surroundings) -> str:
    return printable(side.memory_id, 20) if side.memory_id else _UNKNOWN
