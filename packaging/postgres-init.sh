#!/bin/sh
# Run once by the image, as the database's superuser: the login that serves. It owns nothing, and row level security holds it.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$HUB_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role oriva_hub_service nologin noinherit;
create role oriva_hub_tenant nologin noinherit;
create role hub login password :'password';
grant oriva_hub_service, oriva_hub_tenant to hub;
SQL
