#!/usr/bin/env bash
# A role and a database of its own for one service, made once; its password is brought up to date.
#
#   PGPASSWORD=... roles.sh NAME FILE_OF_PASSWORD PORT      over TCP, as the user postgres
#   roles.sh                                                in the container, at its first start: for mlflow and prefect
set -euo pipefail

make() { # NAME FILE PSQL_OPTION...: the password reaches psql through its standard input, never its command line
    local name=$1 file=$2
    shift 2
    psql "$@" -U postgres -v ON_ERROR_STOP=1 -q <<END
\set ECHO none
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '$name') AS missing \gset
\if :missing
CREATE ROLE "$name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
CREATE DATABASE "$name" OWNER "$name";
REVOKE CONNECT ON DATABASE "$name" FROM PUBLIC;
\endif
SET log_statement = 'none';
SET log_min_duration_statement = -1;
ALTER ROLE "$name" PASSWORD '$(cat "$file")';
END
}

if [[ $# -eq 3 ]]; then
    make "$1" "$2" -h 127.0.0.1 -p "$3"
else
    for name in mlflow prefect; do make "$name" "/run/secrets/$name-database-password"; done
fi
