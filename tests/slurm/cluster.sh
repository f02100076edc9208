#!/usr/bin/env bash
# A Slurm of two nodes on this host, for tests: cluster.sh start|stop FOLDER
# Needs Debian's slurmctld, slurmd, slurm-client and munge, and root. Prints the SLURM_CONF to use.
set -euo pipefail
action=${1:?start or stop}
folder=$(realpath -m "${2:?a folder of its own}")
cpus=$(nproc)

stop() {
    for pid in "$folder"/*.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    pkill -f "slurmstepd.*$folder" 2>/dev/null || true
}

start() {
    mkdir -p "$folder"/{state,munge,spool1,spool2}
    chmod 755 "$folder"
    if ! pgrep -x munged >/dev/null; then
        [ -s /etc/munge/munge.key ] || (umask 077; head -c 1024 /dev/urandom >/etc/munge/munge.key; chown munge: /etc/munge/munge.key)
        mkdir -p /run/munge && chown munge: /run/munge
        su -s /bin/sh munge -c /usr/sbin/munged
    fi
    cat >"$folder/slurm.conf" <<EOF
ClusterName=bench
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$((20000 + RANDOM % 20000))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
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
NodeName=bench1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((41000 + RANDOM % 5000)) CPUs=$cpus State=UNKNOWN
NodeName=bench2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((47000 + RANDOM % 5000)) CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=bench1,bench2 Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c
    for node in bench1 bench2; do slurmd -N "$node" -c; done
    for _ in $(seq 100); do
        [ "$(sinfo -h -t idle -o %D 2>/dev/null || true)" = 2 ] && break
        sleep 0.2
    done
    sinfo >&2
    echo "$SLURM_CONF"
}

"$action"
