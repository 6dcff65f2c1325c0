#!/bin/sh
# The first start of PostgreSQL: the role and the database of the users service, and nothing else for it.
set -eu
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -v password="$(cat /run/secrets/users_postgres__password)" <<'SQL'
CREATE ROLE users LOGIN PASSWORD :'password';
CREATE DATABASE users OWNER users;
REVOKE ALL ON DATABASE users FROM PUBLIC;
SQL
