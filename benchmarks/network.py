"""python -m benchmarks.network: all-reduces over links of 1 Gbit/s between namespaces, their bytes on the wire, and the planner's error.

Options: --ranks N, --size BYTES, --rounds N, --rate RATE, --seconds S of probing, --python PATH (one with another MPI), --results FILE.
Everything lives in private namespaces (users, processes, mounts, network), which end with the command, killed or not: nothing is left, and
no interface of the machine is touched. Where the system has no such namespaces the command says so, and measures through a TCP relay
(--relay: always; see relay.py), at --rate, without MPI and without a record; it keeps up with 100mbit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import relay
from .wires import NETWORK, write

ROOT = Path(__file__).resolve().parents[1]
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--net", "--uts"]
PRIVATE = ("mount -t tmpfs tmpfs /dev/shm && mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mkdir -p /run/netns && "
           "ip link set lo up")
PAYLOAD = 1448 / 1538                   # of an Ethernet frame with TCP's time stamps: what a line of 125 MB/s carries is 117.7 MB/s
AGENT = """#!/bin/sh
# What mpiexec takes for ssh: HOST COMMAND..., where HOST 10.77.0.k is namespace k - 1.
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift; number=$((${host##*.} - 1))
exec ip netns exec adjoint$number unshare --uts sh -c "hostname node$number; $*"
"""
MPICH = ("-launcher", "ssh", "-iface", "eth0", "-genv", "MPIR_CVAR_CH4_NETMOD", "ofi", "-genv", "FI_PROVIDER", "tcp", "-genv",
         "FI_TCP_IFACE", "eth0")
OPENMPI = ("--prtemca", "prte_if_include", "10.77.0.0/24", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1",
           "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "10.77.0.0/24")

# ------------------------------------------------------------------------------------------------ outside


def dies_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)              # PR_SET_PDEATHSIG: with it go the namespaces


def why_not() -> str:
    """Why this system cannot do it, or nothing."""
    missing = [name for name in ("unshare", "ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"there is no {', '.join(missing)}"
    test = "ip link add adjointA type veth peer name adjointB && tc qdisc add dev adjointA root tbf rate 1gbit burst 128kb latency 30ms"
    done = subprocess.run([*UNSHARE, "sh", "-c", f"{PRIVATE} && {test}"], capture_output=True, text=True, timeout=30, check=False)
    return f"no private namespaces: {' '.join(done.stderr.split())[:150]}" if done.returncode else ""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What the ranks found, from inside the namespaces."""
    with tempfile.TemporaryDirectory(prefix="adjoint-network-") as folder:
        words = [sys.executable, "-m", "benchmarks.network", *sys.argv[1:], "--inside", folder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "ADJOINT_CACHE_DIR": str(Path(folder) / "cache")}
        process = subprocess.Popen([*UNSHARE, "sh", "-c", f'{PRIVATE} && exec "$@"', "sh", *words], cwd=ROOT, env=environment,
                                   preexec_fn=dies_with_us, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate(timeout=options.deadline)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise SystemExit(f"the ranks ended with status {process.returncode}:\n{output}")
    return json.loads(output.splitlines()[-1])


# ------------------------------------------------------------------------------------------------ inside the namespaces


def cluster(ranks: int, rate: str) -> None:
    """A bridge, and a namespace for each rank on a veth shaped in both directions."""
    run = lambda words: subprocess.run(words.split(), check=True, timeout=30)
    run("ip link add bridge0 type bridge")
    run("ip link set bridge0 up")
    for k in range(ranks):
        run(f"ip netns add adjoint{k}")
        run(f"ip link add port{k} type veth peer name eth0 netns adjoint{k}")
        run(f"ip link set port{k} master bridge0 up")
        run(f"ip -n adjoint{k} link set lo up")
        run(f"ip -n adjoint{k} address add 10.77.0.{k + 1}/24 dev eth0")
        run(f"ip -n adjoint{k} link set eth0 up")
        shape = f"root tbf rate {rate} burst 128kb latency 30ms"
        run(f"tc -n adjoint{k} qdisc add dev eth0 {shape}")
        run(f"tc qdisc add dev port{k} {shape}")


def inside(options: argparse.Namespace) -> None:
    """Build the cluster and run this module as its ranks, through mpiexec."""
    cluster(options.ranks, options.rate)
    agent = Path(options.inside) / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o700)
    python = options.python or sys.executable
    mpiexec = str(Path(python).parent / "mpiexec")
    about = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    hosts = ",".join(f"10.77.0.{k + 1}" for k in range(options.ranks))
    if "Open MPI" in about or "OpenRTE" in about:
        words = [mpiexec, "--prtemca", "plm_ssh_agent", str(agent), *OPENMPI, "--host", hosts]
        os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    else:
        words = [mpiexec, *MPICH, "-launcher-exec", str(agent), "-hosts", hosts]
    program = [python, "-m", "benchmarks.network", "--rank", *sys.argv[1:sys.argv.index("--inside")]]
    command = " ".join(["cd", str(ROOT), "&&", "exec", *words, "-n", str(options.ranks), *program])
    os.execv(agent, [str(agent), "10.77.0.1", command])


def on_the_interface() -> tuple[int, int]:
    """Bytes that eth0 has received and sent."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    words = line.split(":")[1].split()
    return int(words[0]), int(words[8])


def gathered(communicator: Any, numbers: tuple[int, ...]) -> list[list[int]]:
    """Every rank's whole numbers, on rank 0."""
    from adjoint.distributed.schedules import NOBODY
    row = np.array(numbers, np.int64)
    if communicator.rank:
        communicator.exchange(row, 0, None, NOBODY)
        return []
    rows = [row.tolist()]
    for other in range(1, communicator.size):
        communicator.exchange(None, NOBODY, row, other)
        rows.append(row.tolist())
    return rows


def rank(options: argparse.Namespace) -> None:
    """Probe, then every all-reduce by turns; rank 0 prints what all have found."""
    from adjoint.distributed import ALGORITHMS, world
    from adjoint.distributed.collectives import all_reduce_in_place
    from adjoint.distributed.probe import described, probe, slowest
    communicator = world()
    profile = probe(communicator, seconds=options.seconds)
    buffer = np.zeros(int(options.size) // 4, np.float32)
    found: dict[str, Any] = {name: {"seconds": []} for name in (*ALGORITHMS, "mpi")}
    for _ in range(options.rounds):
        for name, entry in found.items():
            slowest(communicator, 0.0)
            time.sleep(0.05)                                # what is still on its way arrives
            received, sent = on_the_interface()
            slowest(communicator, 0.0)                      # nobody begins before all have looked
            counts = communicator.counts.bytes_sent
            start = time.perf_counter()
            all_reduce_in_place(buffer, communicator, algorithm=name)
            mine = time.perf_counter() - start
            time.sleep(0.05)
            received, sent = (after - before for after, before in zip(on_the_interface(), (received, sent), strict=True))
            entry["counters"] = gathered(communicator, (communicator.counts.bytes_sent - counts, sent, received))
            entry["seconds"].append(slowest(communicator, mine))
    if communicator.rank == 0:
        for name, cost in profile.costs().items():
            found[name]["planned"] = cost(options.ranks, options.size, profile.links())
        print(described(profile), file=sys.stderr)
        print(json.dumps({"mpi": profile.kind, "latency": profile.rounds.latency, "bandwidth": profile.rounds.bandwidth, "rows": found}))


# ------------------------------------------------------------------------------------------------ what is said


def rate_of(options: argparse.Namespace) -> float:
    """Bytes a second of a line."""
    return float(options.rate[:-4]) * {"gbit": 1e9, "mbit": 1e6}[options.rate[-4:]] / 8


def bound(options: argparse.Namespace, payload: float) -> float:
    """Seconds below which no ring can be: its bytes over what the line carries of them, a share `payload`."""
    return 2 * (options.ranks - 1) / options.ranks * options.size / (rate_of(options) * payload)


def show(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; returns it with what the targets say of it."""
    rows, best = found["rows"], bound(options, found.get("payload", PAYLOAD))
    print(f"{options.ranks} {found.get('where', 'namespaces')}, {options.rate}, {options.size / 1e6:g} MB, {found['mpi']}; "
          f"the payload's bound for a ring {best * 1e3:.1f} ms")
    for entry in rows.values():
        entry["median"], entry["minimum"] = statistics.median(entry["seconds"]), min(entry["seconds"])
        payload, sent, _ = (sum(column) for column in zip(*entry["counters"], strict=True))
        entry["wire"] = sent / payload if payload else None
        if "planned" in entry:
            entry["error"] = entry["planned"] / entry["median"] - 1
    for name, entry in sorted(rows.items(), key=lambda item: item[1]["median"]):
        planned = f"planned {entry['planned'] * 1e3:7.1f} ({100 * entry['error']:+5.1f} %)" if "planned" in entry else ""
        wire = f"interface / payload {entry['wire']:.3f}" if entry["wire"] else ""
        print(f"  {name:20s} median {entry['median'] * 1e3:7.1f} ms  minimum {entry['minimum'] * 1e3:7.1f}  {wire:26s} {planned}")
    ring, server = rows["ring"], rows["parameter_server"]
    verdict = {"of_the_bound": best / ring["median"], "server_over_ring": server["median"] / ring["median"], "wire": ring["wire"]}
    print(f"ring {100 * verdict['of_the_bound']:.1f} % of the payload's bound (wanted 95); parameter server "
          f"{verdict['server_over_ring']:.2f} times as slow (wanted 3.5); interface / payload {ring['wire']:.3f} "
          "(wanted 1.00 to 1.09)")
    if errors := [entry["error"] for entry in rows.values() if "error" in entry]:
        verdict["worst_planned"] = max(errors, key=abs)
        print(f"planner at worst {100 * verdict['worst_planned']:+.1f} % (wanted 10)")
    return {"ranks": options.ranks, "rate": options.rate, "size": options.size, "bound": best, **found, **verdict}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--size", type=float, default=20e6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--deadline", type=float, default=300.0)
    parser.add_argument("--python", help="a Python that has another MPI and this package's requirements")
    parser.add_argument("--results", type=Path, default=NETWORK, help="the file that is written")
    parser.add_argument("--relay", action="store_true", help="through a TCP relay, whether or not there are namespaces")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.rank:
        rank(options)
    elif options.inside:
        inside(options)
    else:
        reason = "" if options.relay else why_not()
        if reason:
            print(f"no shaped links: {reason}; through a TCP relay instead")
        if reason or options.relay:
            show(relay.measured(options.ranks, int(options.size), options.rounds, rate_of(options)), options)
            return
        record = show(measure(options), options)
        options.results.write_text(json.dumps(record, indent=1) + "\n")
        write()


if __name__ == "__main__":
    main()
