#!/usr/bin/env bash
# A Slurm of two nodes of one CPU each on this host, for tests: cluster.sh install | start FOLDER | stop FOLDER
# Needs root, and Debian's slurmctld, slurmd, slurm-client and munge, which `install` gets. `start` prints the
# SLURM_CONF to use.
set -euo pipefail
action=${1:?install, start or stop}

install() {
    local missing=()
    [ "$(id -u)" = 0 ] || { echo "only root may start a Slurm" >&2; exit 1; }
    for tool in slurmctld slurmd sbatch munged; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || { echo "no ${missing[*]} here, and no apt-get to install them" >&2; exit 1; }
    apt-get update -qq || true  # old lists may do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge ||
        { echo "apt-get cannot install ${missing[*]}" >&2; exit 1; }
}

stop() {
    for pid in "$folder"/*.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
}

start() {
    mkdir -p "$folder"/state
    chmod 755 "$folder"
    if ! pgrep -x munged >/dev/null; then
        [ -s /etc/munge/munge.key ] || (umask 077; head -c 1024 /dev/urandom >/etc/munge/munge.key; chown munge: /etc/munge/munge.key)
        mkdir -p /run/munge && chown munge: /run/munge
        su -s /bin/sh munge -c /usr/sbin/munged
    fi
    # A job that is queued again waits until credentials of its first start have run out: two minutes if nobody says.
    cat >"$folder/slurm.conf" <<EOF
ClusterName=bench
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$((20000 + RANDOM % 20000))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdSpoolDir=$folder/%n
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
InactiveLimit=0
MinJobAge=300
KillWait=10
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=bench1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((41000 + RANDOM % 5000)) CPUs=1 State=UNKNOWN
NodeName=bench2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((47000 + RANDOM % 5000)) CPUs=1 State=UNKNOWN
PartitionName=main Nodes=bench1,bench2 Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c
    for node in bench1 bench2; do slurmd -N "$node" -c; done
    for _ in $(seq 150); do
        [ "$(sinfo -h -t idle -o %D 2>/dev/null || true)" = 2 ] && break
        sleep 0.2
    done
    [ "$(sinfo -h -t idle -o %D)" = 2 ] || { tail -n 20 "$folder"/*.log >&2; echo "Slurm did not start" >&2; exit 1; }
    echo "$SLURM_CONF"
}

[ "$action" = install ] || folder=$(realpath -m "${2:?a folder of its own}")
"$action"
