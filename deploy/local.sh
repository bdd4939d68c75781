#!/usr/bin/env bash
# Every service on this machine without containers: PostgreSQL, MLflow (basic auth), Prefect (auth), Orthanc (DICOMweb)
# and a worker, on loopback, by the lines that compose.yaml and the systemd units run.
#
#   deploy/local.sh [--dir DIR] up        make secrets and databases where they are missing, start what does not run
#   deploy/local.sh [--dir DIR] status    what runs, and whether it answers; exit status 1 where something does not
#   deploy/local.sh [--dir DIR] env       lines for `eval`: with them noduleflow uses these services
#   deploy/local.sh [--dir DIR] down      end exactly what `up` started; --purge removes DIR and the databases too
#
# DIR (./local) holds secrets, logs, workspace and the configuration night.toml, which may be edited. Ports are free ones,
# chosen once (DIR/ports). Needs `make servers`, and Debian's postgresql, orthanc and orthanc-dicomweb.
set -euo pipefail
deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
bin=${NODULEFLOW_BIN:-$(cd "$deploy/.." && pwd -P)/.venv/bin}
dir=local purge=0 command=""
port_postgres="" port_mlflow="" port_prefect="" port_worker="" port_orthanc=""
start_timeout_s=600

say() { echo "local: $*" >&2; }
refuse() { say "$*"; exit 2; }

while [[ $# -gt 0 ]]; do
    case $1 in
    --dir) [[ $# -gt 1 ]] || refuse "--dir needs a folder"; dir=$2; shift ;;
    --purge) purge=1 ;;
    up | status | env | down) command=$1 ;;
    *) refuse "unknown word: $1 (up, status, env or down)" ;;
    esac
    shift
done
[[ -n $command ]] || refuse "up, status, env or down?"
if [[ $command == up ]]; then (umask 077 && mkdir -p "$dir"); fi
[[ -d $dir ]] || { say "nothing is there: $dir"; [[ $command == down ]]; exit; }
dir=$(cd "$dir" && pwd -P)
# Each service is started in a shell of its own, whose settings end with it.
# shellcheck disable=SC2030,SC2031
services=(postgres mlflow prefect orthanc worker)

# ---- what a process of ours is: its id with the time it began, so that a number that was given anew is nobody of ours

began() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null || true; }

pid_of() { # of a service that runs; nothing where it does not
    local pid time
    [[ -f $dir/run/$1.pid ]] || return 0
    read -r pid time <"$dir/run/$1.pid"
    if [[ -n $time && $(began "$pid") == "$time" ]]; then echo "$pid"; fi
}

launch() { # NAME COMMAND...: in a session of its own, so that its children end with it
    local name=$1
    shift
    setsid "$@" >>"$dir/log/$name.log" 2>&1 </dev/null &
    echo "$! $(began $!)" >"$dir/run/$name.pid"
}

wait_for() { # NAME CHECK...
    local name=$1 until=$((SECONDS + start_timeout_s))
    shift
    until "$@" >/dev/null 2>&1; do
        if [[ -z $(pid_of "$name") || $SECONDS -gt $until ]]; then
            say "$name does not start; the end of $dir/log/$name.log:"
            tail -n 20 "$dir/log/$name.log" >&2
            exit 1
        fi
        sleep 0.5
    done
    say "$name answers"
}

end() { # NAME SIGNAL SECONDS: first a request, then force, to the whole group
    local pid until
    pid=$(pid_of "$1")
    rm -f "$dir/run/$1.pid"
    [[ -n $pid ]] || return 0
    if [[ $1 == postgres ]]; then kill "-$2" "$pid"; else kill "-$2" -- "-$pid"; fi 2>/dev/null || true
    until=$((SECONDS + $3))
    while [[ -d /proc/$pid && $SECONDS -lt $until ]]; do sleep 0.2; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    say "$1 has ended"
}

# ---- addresses and settings

ports() {
    if [[ ! -s $dir/ports ]]; then
        "$bin/python" - >"$dir/ports.new" <<'PYTHON'
import socket

probes = []
for name in ("postgres", "mlflow", "prefect", "worker", "orthanc"):
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    probes.append(probe)
    print(f"port_{name}={probe.getsockname()[1]}")
PYTHON
        mv "$dir/ports.new" "$dir/ports"
    fi
    local name port
    while IFS="=" read -r name port; do declare -g "$name=$port"; done <"$dir/ports"
}

client_settings() { # what noduleflow and the worker's runs are told
    cat <<END
export NODULEFLOW_WORKSPACE=$dir/workspace
export NODULEFLOW_CONFIG=$dir/night.toml
export NODULEFLOW_PREFECT_API_URL=http://127.0.0.1:$port_prefect/api
export NODULEFLOW_PREFECT_AUTH_FILE=$dir/secrets/prefect-auth
export NODULEFLOW_PREFECT_DATABASE_FILE=$dir/secrets/prefect-database-url
export NODULEFLOW_MLFLOW_TRACKING_URI=http://127.0.0.1:$port_mlflow
export NODULEFLOW_MLFLOW_USER=noduleflow
export NODULEFLOW_MLFLOW_PASSWORD_FILE=$dir/secrets/mlflow-admin-password
export NODULEFLOW_MLFLOW_DATABASE_FILE=$dir/secrets/mlflow-database-url
export NODULEFLOW_REGISTRY_LOCK_URL_FILE=$dir/secrets/mlflow-database-url
export NODULEFLOW_AUDIT_KEY_FILE=$dir/secrets/audit-key
export NODULEFLOW_DICOMWEB_USER=noduleflow
export NODULEFLOW_DICOMWEB_PASSWORD_FILE=$dir/secrets/orthanc-password
END
    # A workspace that was begun with a key of its own keeps it: another would name its patients anew, and is refused.
    [[ -e $dir/workspace/secret.key ]] || echo "export NODULEFLOW_SECRET_FILE=$dir/secrets/identity-key"
}

# ---- PostgreSQL, which refuses to run as root

programs() { # Debian keeps them off the PATH, in a folder a version
    local found
    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb "$(command -v initdb || true)" | grep -v '\*' | sort -V | tail -n 1)
    [[ -n $found ]] || refuse "PostgreSQL is not installed: apt-get install postgresql"
    dirname "$found"
}

as_postgres() {
    if [[ $(id -u) -eq 0 ]]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"
    else
        "$@"
    fi
}

postgres_folder() { # below DIR, or, where that is closed to the user postgres, in a folder of its own
    if [[ ! -s $dir/postgres.path ]]; then
        local folder=$dir/postgres
        if [[ $(id -u) -eq 0 ]]; then
            folder=$(mktemp -d "${TMPDIR:-/tmp}/noduleflow-postgres.XXXXXX")
            chown postgres: "$folder"
        else
            mkdir -p "$folder"
        fi
        echo "$folder" >"$dir/postgres.path"
    fi
    cat "$dir/postgres.path"
}

start_postgres() {
    local programs folder
    programs=$(programs)
    folder=$(postgres_folder)
    if [[ ! -f $folder/made ]]; then
        rm -rf "$folder/data"
        # For a moment a copy of the password lies where the user postgres, who is shut out of DIR, can read it.
        cp "$dir/secrets/postgres-password" "$folder/password"
        if [[ $(id -u) -eq 0 ]]; then chown postgres: "$folder/password"; fi
        (cd / && as_postgres "$programs/initdb" -D "$folder/data" -U postgres --auth=scram-sha-256 -E UTF8 \
            --pwfile="$folder/password" >>"$dir/log/postgres.log" 2>&1) ||
            { say "initdb failed, see $dir/log/postgres.log"; exit 1; }
        rm "$folder/password"
        touch "$folder/made"
    fi
    local as=()
    if [[ $(id -u) -eq 0 ]]; then as=(setpriv --reuid=postgres --regid=postgres --clear-groups --); fi
    (cd / && launch postgres "${as[@]}" "$programs/postgres" -D "$folder/data" -p "$port_postgres" -k "$folder" \
        -c listen_addresses=127.0.0.1)
    wait_for postgres ask_postgres "SELECT 1"
    local name
    for name in mlflow prefect; do
        # The script that the container runs at its first start.
        PGPASSWORD=$(cat "$dir/secrets/postgres-password") bash "$deploy/postgres/roles.sh" "$name" \
            "$dir/secrets/$name-database-password" "$port_postgres" >>"$dir/log/postgres.log" 2>&1 ||
            { say "the database of $name cannot be made, see $dir/log/postgres.log"; exit 1; }
    done
}

ask_postgres() {
    PGPASSWORD=$(cat "$dir/secrets/postgres-password") psql -h 127.0.0.1 -p "$port_postgres" -U postgres -tAc "$1"
}

# ---- the others, by deploy/start

start_mlflow() {
    (
        export MLFLOW_PORT=$port_mlflow MLFLOW_WORKERS=1
        export MLFLOW_BACKEND_STORE_URI=postgresql://mlflow@127.0.0.1:$port_postgres/mlflow
        export PGPASSWORD_FILE=$dir/secrets/mlflow-database-password
        export MLFLOW_ARTIFACTS_DESTINATION=$dir/mlflow-artifacts
        export MLFLOW_AUTH_ADMIN_PASSWORD_FILE=$dir/secrets/mlflow-admin-password
        export MLFLOW_FLASK_SERVER_SECRET_KEY_FILE=$dir/secrets/mlflow-secret-key
        launch mlflow "$deploy/start" mlflow
    )
}

start_prefect() {
    (
        export PREFECT_HOME=$dir/prefect PREFECT_SERVER_API_PORT=$port_prefect
        export PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect@127.0.0.1:$port_postgres/prefect
        export PGPASSWORD_FILE=$dir/secrets/prefect-database-password
        export PREFECT_SERVER_API_AUTH_STRING_FILE=$dir/secrets/prefect-auth
        launch prefect "$deploy/start" prefect
    )
}

start_orthanc() {
    local program plugin=/usr/share/orthanc/plugins/libOrthancDicomWeb.so
    program=$(command -v Orthanc) && [[ -f $plugin ]] ||
        refuse "Orthanc is not installed: apt-get install orthanc orthanc-dicomweb"
    mkdir -p "$dir/orthanc"
    # Orthanc cannot bind to one address: HTTP refuses every caller from elsewhere, and DICOM, which cannot, is off.
    cat >"$dir/orthanc/place.json" <<END
{"StorageDirectory": "$dir/orthanc/storage", "IndexDirectory": "$dir/orthanc/storage",
 "HttpPort": $port_orthanc, "DicomServerEnabled": false, "RemoteAccessAllowed": false, "Plugins": ["$plugin"]}
END
    # A folder of parts that Orthanc joins: ours, the place, and the users, who are a secret.
    cp "$deploy/orthanc/orthanc.json" "$dir/secrets/orthanc-users.json" "$dir/orthanc/"
    launch orthanc "$program" "$dir/orthanc"
}

orthanc_answers() {
    "$bin/python" - "$port_orthanc" "$dir/secrets/orthanc-password" <<'PYTHON'
import base64, pathlib, sys, urllib.request

word = base64.b64encode(b"noduleflow:" + pathlib.Path(sys.argv[2]).read_bytes().strip()).decode()
address = f"http://127.0.0.1:{sys.argv[1]}/dicom-web/studies?limit=1"
urllib.request.urlopen(urllib.request.Request(address, headers={"Authorization": f"Basic {word}"}), timeout=5).close()
PYTHON
}

worker_settings() {
    client_settings
    echo "export PREFECT_HOME=$dir/prefect-worker PREFECT_WORKER_WEBSERVER_PORT=$port_worker PREFECT_WORKER_QUERY_SECONDS=5"
}

register_jobs() { # also while the worker runs: night.toml may have changed
    (
        eval "$(worker_settings)"
        "$deploy/start" register >>"$dir/log/register.log" 2>&1 ||
            { say "the jobs cannot be registered:"; tail -n 3 "$dir/log/register.log" >&2; exit 1; }
    )
}

start_worker() {
    (
        eval "$(worker_settings)"
        launch worker "$deploy/start" worker
    )
}

# ---- commands

healthy() {
    case $1 in
    postgres) ask_postgres "SELECT 1" ;;
    mlflow) MLFLOW_PORT=$port_mlflow "$deploy/start" healthy mlflow ;;
    prefect) PREFECT_SERVER_API_PORT=$port_prefect "$deploy/start" healthy prefect ;;
    orthanc) orthanc_answers ;;
    worker) PREFECT_WORKER_WEBSERVER_PORT=$port_worker "$deploy/start" healthy worker ;;
    esac
}

up() {
    "$bin/python" -c 'import flask_wtf, boto3' 2>/dev/null || refuse "the servers' packages are missing: make servers"
    command -v psql >/dev/null || refuse "PostgreSQL is not installed: apt-get install postgresql"
    umask 077
    mkdir -p "$dir"/{run,log,workspace,mlflow-artifacts}
    ports
    "$deploy/make-secrets" "$dir/secrets" "127.0.0.1:$port_postgres"
    [[ -s $dir/mark ]] || od -An -N12 -tx1 /dev/urandom | tr -d ' \n' >"$dir/mark"
    [[ -s $dir/night.toml ]] || sed "s|@ORTHANC@|http://127.0.0.1:$port_orthanc/dicom-web|" "$deploy/night.toml" >"$dir/night.toml"
    # Every process that is started from here carries it, and every child of theirs.
    NODULEFLOW_LOCAL_MARK=$(cat "$dir/mark")
    export NODULEFLOW_LOCAL_MARK NODULEFLOW_BIN=$bin RUNTIME_DIRECTORY=$dir/run
    local name
    for name in "${services[@]}"; do
        if [[ $name == worker ]]; then register_jobs; fi
        if [[ -n $(pid_of "$name") ]]; then
            say "$name runs"
            continue
        fi
        "start_$name"
        wait_for "$name" healthy "$name"
    done
    say "MLflow  http://127.0.0.1:$port_mlflow  user noduleflow, password in $dir/secrets/mlflow-admin-password"
    say "Prefect http://127.0.0.1:$port_prefect  user and password in $dir/secrets/prefect-auth"
    say "Orthanc http://127.0.0.1:$port_orthanc/dicom-web  user noduleflow, password in $dir/secrets/orthanc-password"
    say "to use them here: eval \"\$($deploy/local.sh --dir $dir env)\""
}

status() {
    local name faults=0
    ports
    for name in "${services[@]}"; do
        if [[ -z $(pid_of "$name") ]]; then
            echo "$name: does not run"
            faults=1
        elif healthy "$name" >/dev/null 2>&1; then
            echo "$name: answers (process $(pid_of "$name"))"
        else
            echo "$name: runs and does not answer, see $dir/log/$name.log"
            faults=1
        fi
    done
    return $faults
}

stragglers() { # processes of ours that left the group of their service
    local mark file pid
    [[ -s $dir/mark ]] || return 0
    mark=NODULEFLOW_LOCAL_MARK=$(cat "$dir/mark")
    for file in /proc/[0-9]*/environ; do
        pid=${file//[!0-9]/}
        if [[ $pid -ne $$ && $pid -ne $BASHPID ]] && grep -qsxzF "$mark" "$file"; then echo "$pid"; fi
    done
}

down() {
    end worker TERM 12
    end orthanc TERM 10
    end prefect TERM 20
    end mlflow TERM 10
    end postgres INT 30
    local pid
    for pid in $(stragglers); do kill -KILL "$pid" 2>/dev/null || true; done
    rm -f "$dir"/run/noduleflow-mlflow-auth.*
    if [[ $purge -eq 1 ]]; then
        local folder=
        [[ ! -s $dir/postgres.path ]] || folder=$(cat "$dir/postgres.path")
        [[ -z $folder ]] || rm -rf "$folder"
        rm -rf "$dir"
        say "$dir and the databases are removed"
    fi
}

case $command in
up) up ;;
status) [[ -s $dir/ports ]] || { say "nothing was started in $dir"; exit 1; }; status ;;
env) [[ -s $dir/ports ]] || refuse "nothing was started in $dir"; ports; client_settings ;;
down) down ;;
esac
